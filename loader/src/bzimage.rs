//! The header of an x86 Linux `bzImage` (Linux `Documentation/arch/x86/boot.rst`, "The Real-Mode Kernel Header").

use crate::BootError;
use crate::image::Image;

/// Offset of the setup header in the file, and in the zero page.
pub const HEADER: usize = 0x1f1;
/// Bytes from the start of the loaded part to its 64-bit entry point (boot.rst, "64-bit Boot Protocol").
const ENTRY: u64 = 0x200;
/// First version of the protocol that tells of a 64-bit entry point: `xloadflags`.
const VERSION: u16 = 0x020c;
/// `loadflags`: the kernel is loaded at 1 MiB or above.
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: there is a 64-bit entry point.
const KERNEL_64: u16 = 1;

fn byte(file: &[u8], at: usize) -> Option<u8> {
    file.get(at).copied()
}

fn half(file: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(file.get(at..at + 2)?.try_into().ok()?))
}

fn word(file: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?))
}

/// Bytes of the part that is not loaded.
fn skip(file: &[u8]) -> Option<usize> {
    let sectors = match byte(file, HEADER)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    Some((sectors + 1) * 512)
}

/// Whether the file ends before the loaded part does: `syssize` says how long that is, in units of 16 bytes. A signature may follow.
pub fn is_cut(file: &[u8]) -> bool {
    let promised = || Some(skip(file)? as u64 + u64::from(word(file, 0x1f4)?) * 16);
    promised().is_none_or(|promised| promised > file.len() as u64)
}

fn read(file: &[u8]) -> Option<Image> {
    let good = half(file, 0x1fe)? == 0xaa55
        && file.get(0x202..0x206)? == b"HdrS"
        && half(file, 0x206)? >= VERSION
        && byte(file, 0x211)? & LOADED_HIGH != 0
        && half(file, 0x236)? & KERNEL_64 != 0
        // Relocatable, so that it may be loaded wherever there is room; aligned to no more than a block.
        && byte(file, 0x234)? != 0
        && word(file, 0x230)? <= 2 << 20;
    let (skip, size) = (skip(file)?, u64::from(word(file, 0x260)?));
    let loaded = file.len().checked_sub(skip)? as u64;
    (good && !is_cut(file) && loaded > ENTRY && size >= loaded).then_some(Image {
        skip,
        text_offset: 0,
        size,
        entry: ENTRY,
    })
}

/// Reads the header of `file`; `name` is for the error.
///
/// # Errors
/// [`BootError::BzImage`] when the magic is missing, there is no 64-bit entry point, the file is cut ([`is_cut`]), or the sizes
/// cannot be true.
pub fn parse(file: &[u8], name: &'static str) -> Result<Image, BootError> {
    read(file).ok_or(BootError::BzImage(name))
}

/// The setup header of a file that [`parse`] has accepted: what goes to the same offset in the zero page (boot.rst,
/// "64-bit Boot Protocol": its end is at 0x202 plus the byte at 0x201).
pub fn header(file: &[u8]) -> &[u8] {
    let end = 0x202 + file.get(0x201).copied().map_or(0, usize::from);
    file.get(HEADER..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    fn file(size: u32) -> Vec<u8> {
        let mut file = vec![0; 4096];
        file[HEADER] = 1;
        file[0x1f4..0x1f8].copy_from_slice(&(3072_u32 / 16).to_le_bytes());
        file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        file[0x201] = 0x66;
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        file[0x211] = LOADED_HIGH;
        file[0x230..0x234].copy_from_slice(&(2_u32 << 20).to_le_bytes());
        file[0x234] = 1;
        file[0x236] = 1;
        file[0x260..0x264].copy_from_slice(&size.to_le_bytes());
        file
    }

    #[test]
    fn a_good_header_is_read_and_bad_ones_are_refused() {
        assert_eq!(parse(&file(8192), "k"), Ok(Image { skip: 1024, text_offset: 0, size: 8192, entry: 512 }));
        assert_eq!(header(&file(8192)).len(), 0x268 - HEADER);
        assert!(parse(&file(1024), "k").is_err(), "needs less memory than it has bytes");
        for (at, value) in [(0x1fe, 0), (0x202, 0), (0x207, 1), (0x211, 0), (0x236, 0), (0x234, 0), (0x233, 1)] {
            let mut bad = file(8192);
            bad[at] = value;
            assert_eq!(parse(&bad, "k"), Err(BootError::BzImage("k")), "byte {at:#x}");
        }
        for length in (0..0x270).chain([1024, 2048, 4080, 4095]) {
            let cut = &file(8192)[..length];
            assert!(parse(cut, "k").is_err() && is_cut(cut), "cut to {length}");
        }
        assert!(!is_cut(&file(8192)));
    }
}
