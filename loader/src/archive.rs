//! Plans a bundle that is put together in memory: files of the boot volume, texts of the settings, and a ready bundle at
//! the end. Each file is read straight to where the plan has it, so nothing large is ever copied.
//!
//! What comes first wins ([`crate::cpio::find`]), so single files stand in for those of the ready bundle.

use alloc::format;
use alloc::vec::Vec;

/// Where a file goes, and what is in front of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Offset of the header in the archive, in bytes.
    pub header_at: usize,
    /// The header with the name, padded.
    pub header: Vec<u8>,
    /// Offset of the content.
    pub data_at: usize,
    /// Bytes of the content.
    pub size: usize,
}

/// A plan; offsets grow, and what is between the pieces is zero.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    end: usize,
}

/// The end of an archive.
const TRAILER: &str = "TRAILER!!!";

impl Plan {
    /// Room for a file; `None` when it is larger than an archive can say.
    pub fn file(&mut self, name: &str, size: usize) -> Option<Slot> {
        let header = header(name, u32::try_from(size).ok()?);
        let slot = Slot { header_at: self.end, data_at: self.end + header.len(), header, size };
        self.end = slot.data_at.checked_add(size)?.checked_next_multiple_of(4)?;
        Some(slot)
    }

    /// The end of the archive: its offset, and what goes there.
    pub fn trailer(&mut self) -> (usize, Vec<u8>) {
        let (at, bytes) = (self.end, header(TRAILER, 0));
        self.end += bytes.len();
        (at, bytes)
    }

    /// Room for a ready archive, which brings its own end.
    pub fn archive(&mut self, size: usize) -> Option<usize> {
        let at = self.end;
        self.end = at.checked_add(size)?;
        Some(at)
    }

    /// Bytes of the whole.
    pub fn size(&self) -> usize {
        self.end
    }
}

/// A `newc` header of a read-only file, with its name, padded to four bytes.
fn header(name: &str, size: u32) -> Vec<u8> {
    // Inode, mode, owner, group, links, time, size, device and special device numbers, length of the name, check sum.
    let fields = [0, 0o100_444, 0, 0, 1, 0, size, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    let mut out = Vec::from(&b"070701"[..]);
    for field in fields {
        out.extend(format!("{field:08x}").bytes());
    }
    out.extend(name.bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpio;
    use std::vec;

    #[test]
    fn a_planned_archive_is_one_that_postern_reads() {
        let mut ready = Plan::default();
        let inner = ready.file("host/kernel", 3).unwrap();
        let (end, trailer) = ready.trailer();
        let mut bundle = vec![0; ready.size()];
        bundle[..inner.header.len()].copy_from_slice(&inner.header);
        bundle[inner.data_at..][..3].copy_from_slice(b"old");
        bundle[end..].copy_from_slice(&trailer);

        let mut plan = Plan::default();
        let kernel = plan.file("host/kernel", 5).unwrap();
        let cmdline = plan.file("host/cmdline", 2).unwrap();
        let at = plan.archive(bundle.len()).unwrap();
        let mut whole = vec![0; plan.size()];
        for (slot, data) in [(&kernel, &b"newer"[..]), (&cmdline, b"hi")] {
            whole[slot.header_at..][..slot.header.len()].copy_from_slice(&slot.header);
            whole[slot.data_at..][..data.len()].copy_from_slice(data);
        }
        whole[at..].copy_from_slice(&bundle);
        assert_eq!(cpio::find(&whole, "host/kernel").unwrap().unwrap().data, b"newer");
        assert_eq!(cpio::find(&whole, "host/cmdline").unwrap().unwrap().data, b"hi");
        assert_eq!(cpio::files(&whole).map(Result::unwrap).count(), 3);
    }

    #[test]
    fn what_an_archive_cannot_hold_is_refused() {
        assert_eq!(Plan::default().file("x", 1 << 32), None);
        assert_eq!(Plan { end: usize::MAX - 2 }.archive(3), None);
    }
}
