//! The arm64 Linux `Image` header (Linux `Documentation/arch/arm64/booting.rst`, "Call the kernel image").

use crate::BootError;

/// What a loader has to know of a kernel, whatever its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Bytes at the start of the file that are not loaded.
    pub skip: usize,
    /// Bytes from a 2 MiB boundary to the first byte that is loaded.
    pub text_offset: u64,
    /// Bytes of memory the kernel needs from there on, its uninitialised data included.
    pub size: u64,
    /// Bytes from the first byte that is loaded to the first instruction.
    pub entry: u64,
}

/// Reads the header of `file`; `name` is for the error.
///
/// # Errors
/// [`BootError::Image`] when the magic is missing or the sizes cannot be true.
pub fn parse(file: &[u8], name: &'static str) -> Result<Image, BootError> {
    let word = |at: usize| file.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()));
    let magic = file.get(56..60).ok_or(BootError::Image(name))?;
    let (text_offset, size) = (word(8).ok_or(BootError::Image(name))?, word(16).ok_or(BootError::Image(name))?);
    // An image size of zero is from kernels older than 3.17; Postern does not guess for them.
    if magic != b"ARM\x64" || size < file.len() as u64 || size > 1 << 32 || text_offset >= 2 << 20 {
        return Err(BootError::Image(name));
    }
    Ok(Image { skip: 0, text_offset, size, entry: 0 })
}

/// Bytes of Postern's own file, which its header has in a field that Linux leaves zero; `None` for other images. The last 63
/// may be padding that is not there.
pub fn own_size(header: &[u8]) -> Option<u64> {
    let bytes = header.get(32..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes)).filter(|size| *size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(size: u64) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[16..24].copy_from_slice(&size.to_le_bytes());
        bytes[56..60].copy_from_slice(b"ARM\x64");
        bytes
    }

    #[test]
    fn only_posterns_own_image_says_how_long_its_file_is() {
        let mut own = header(4096);
        assert_eq!(own_size(&own), None, "Linux");
        own[32..40].copy_from_slice(&4000u64.to_le_bytes());
        assert_eq!(own_size(&own), Some(4000));
        assert_eq!(own_size(&own[..39]), None);
    }

    #[test]
    fn a_good_header_is_read_and_bad_ones_are_refused() {
        assert_eq!(parse(&header(4096), "k"), Ok(Image { skip: 0, text_offset: 0, size: 4096, entry: 0 }));
        assert!(parse(&header(8), "k").is_err(), "smaller than the file");
        assert!(parse(&header(u64::MAX), "k").is_err(), "absurd");
        assert!(parse(&header(4096)[..40], "k").is_err(), "cut short");
        assert!(parse(&[0; 64], "k").is_err(), "no magic");
    }
}
