//! The bundle: what Postern takes out of the initrd that its boot loader passed.

use crate::{BootError, cpio, image};

/// The host's part of the bundle.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// Kernel file.
    pub kernel: &'a [u8],
    /// Its header.
    pub image: image::Image,
    /// Where the host's initrd lies in the bundle: offset and length in bytes.
    pub initrd: (usize, usize),
    /// Kernel command line.
    pub cmdline: &'a str,
}

/// Reads the header of a kernel; the name is for the error.
pub type Parse = fn(&[u8], &'static str) -> Result<image::Image, BootError>;

/// Finds the host's files; `parse` knows the format of this architecture's kernels.
///
/// # Errors
/// Damaged archive, no kernel, or one in another format.
pub fn host(bundle: &[u8], parse: Parse) -> Result<Host<'_>, BootError> {
    let kernel = cpio::find(bundle, abi::bundle::HOST_KERNEL)?.ok_or(BootError::File(abi::bundle::HOST_KERNEL))?;
    let image = parse(kernel.data, abi::bundle::HOST_KERNEL)?;
    let initrd = cpio::find(bundle, abi::bundle::HOST_INITRD)?.map_or((0, bundle.len()), |f| (f.offset, f.data.len()));
    let cmdline = cpio::find(bundle, abi::bundle::HOST_CMDLINE)?.map_or(&[][..], |file| file.data);
    let cmdline = core::str::from_utf8(cmdline).map_err(|_| BootError::File("readable host/cmdline"))?.trim_end();
    Ok(Host { kernel: kernel.data, image, initrd, cmdline })
}
