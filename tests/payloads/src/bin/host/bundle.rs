//! The files that came with the boot: see [`abi::bundle`] for their names.

use alloc::format;
use alloc::string::String;
use core::ops::Range;
use loader::cpio;
use payloads::config::Config;

/// The archive and its settings.
pub struct Bundle {
    archive: &'static [u8],
    /// The file `config`, empty when there is none.
    pub config: Config<'static>,
}

impl Bundle {
    /// The archive at physical addresses `range`.
    pub fn new(range: Range<u64>) -> Self {
        let length = range.end.saturating_sub(range.start) as usize;
        let archive: &'static [u8] = if length == 0 {
            &[]
        } else {
            // SAFETY: the device tree says that the initrd is there; the frame allocator leaves it alone.
            unsafe { core::slice::from_raw_parts(range.start as *const u8, length) }
        };
        let config = cpio::find(archive, abi::bundle::CONFIG).ok().flatten();
        Self { archive, config: config.map_or(Config::default(), |file| Config::new(file.data)) }
    }

    /// A file that may be missing.
    pub fn optional(&self, name: &str) -> Option<&'static [u8]> {
        cpio::find(self.archive, name).ok().flatten().map(|file| file.data)
    }

    /// A file that must be there.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn file(&self, name: &str) -> Result<&'static [u8], String> {
        self.optional(name).ok_or_else(|| format!("the bundle has no {name}"))
    }

    /// The tiny test guest: `guest/tiny`, or the guest's kernel when there is no other.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn tiny_guest(&self) -> Result<&'static [u8], String> {
        self.file(abi::bundle::GUEST_TINY).or_else(|_| self.file(abi::bundle::GUEST_KERNEL))
    }

    /// A text file without its final line break; empty when missing.
    pub fn text(&self, name: &str) -> &'static str {
        self.optional(name).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or("").trim_end()
    }
}
