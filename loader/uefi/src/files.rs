//! Files on the volume that the application was started from.
#![allow(unsafe_code)] // Protocols that are only read stay open for others.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use uefi::boot::{self, OpenProtocolAttributes, OpenProtocolParams, ScopedProtocol};
use uefi::proto::device_path::DevicePath;
use uefi::proto::media::file::{Directory, File as _, FileAttribute, FileInfo, FileMode, RegularFile};
use uefi::proto::media::fs::SimpleFileSystem;
use uefi::proto::{ProtocolPointer, unsafe_protocol};
use uefi::{CString16, Handle};
use uefi_raw::protocol::loaded_image::LoadedImageProtocol;

/// The volume.
pub struct Volume {
    root: Directory,
}

/// An open file.
pub struct File {
    file: RegularFile,
    path: String,
    /// Bytes.
    pub size: usize,
}

/// What firmware knows of a program that was loaded: `uefi` does not show who loaded it.
#[repr(transparent)]
#[unsafe_protocol(LoadedImageProtocol::GUID)]
struct Program(LoadedImageProtocol);

impl Program {
    /// What the program was loaded from.
    fn device(&self) -> Option<Handle> {
        // SAFETY: a handle of firmware's, or none.
        unsafe { Handle::from_ptr(self.0.device_handle) }
    }

    /// The program that loaded it.
    fn parent(&self) -> Option<Handle> {
        // SAFETY: as above.
        unsafe { Handle::from_ptr(self.0.parent_handle) }
    }
}

/// Opens what stays another's.
fn look_at<P: ProtocolPointer + ?Sized>(handle: Handle) -> uefi::Result<ScopedProtocol<P>> {
    let params = OpenProtocolParams { handle, agent: boot::image_handle(), controller: None };
    // SAFETY: the caller only reads it, and nothing is unloaded meanwhile.
    unsafe { boot::open_protocol(params, OpenProtocolAttributes::GetProtocol) }
}

/// What this application was loaded from. GRUB's `linux` reads it itself and hands it on in memory: then it is what GRUB was
/// loaded from.
fn device() -> uefi::Result<Handle> {
    let program = look_at::<Program>(boot::image_handle())?;
    let loader = program.parent().and_then(|parent| look_at::<Program>(parent).ok());
    program.device().or_else(|| loader?.device()).ok_or(uefi::Status::NOT_FOUND.into())
}

impl Volume {
    /// The volume that this application came from.
    pub fn open() -> Result<Self, String> {
        let reason = |error: uefi::Error| format!("the volume that this application is on cannot be read: {error}");
        let open = || {
            let path = look_at::<DevicePath>(device()?)?;
            let handle = boot::locate_device_path::<SimpleFileSystem>(&mut &*path)?;
            boot::open_protocol_exclusive::<SimpleFileSystem>(handle)?.open_volume()
        };
        Ok(Self { root: open().map_err(reason)? })
    }

    /// Opens a file by its path from the top.
    pub fn file(&mut self, path: &str) -> Result<File, String> {
        let path = path.replace('/', "\\");
        let name = CString16::try_from(path.as_str()).map_err(|_| format!("{path} is no name of a file"))?;
        let missing = |error: uefi::Error| match error.status() {
            uefi::Status::NOT_FOUND => format!("{path} is not there"),
            _ => format!("{path} cannot be opened: {error}"),
        };
        let handle = self.root.open(&name, FileMode::Read, FileAttribute::empty()).map_err(missing)?;
        let mut file = handle.into_regular_file().ok_or_else(|| format!("{path} is a folder"))?;
        let info = file.get_boxed_info::<FileInfo>().map_err(|error| format!("{path} cannot be read: {error}"))?;
        let size = usize::try_from(info.file_size()).map_err(|error| error.to_string())?;
        Ok(File { file, path, size })
    }

    /// A small file as a whole.
    pub fn small(&mut self, path: &str, most: usize) -> Result<Vec<u8>, String> {
        let mut file = self.file(path)?;
        if file.size > most {
            return Err(format!("{path} has {} bytes; at most {most} make sense", file.size));
        }
        let mut bytes = alloc::vec![0; file.size];
        file.read(0, &mut bytes)?;
        Ok(bytes)
    }
}

impl File {
    /// Reads from offset `from` on until `into` is full.
    pub fn read(&mut self, from: usize, into: &mut [u8]) -> Result<(), String> {
        let failed = |path: &str, error: uefi::Error| format!("{path} cannot be read: {error}");
        self.file.set_position(from as u64).map_err(|error| failed(&self.path, error))?;
        let mut done = 0;
        while done < into.len() {
            let read = self.file.read(&mut into[done..]).map_err(|error| failed(&self.path, error))?;
            if read == 0 {
                return Err(format!("{} is cut short: {done} of {} bytes are there", self.path, into.len()));
            }
            done += read;
        }
        Ok(())
    }
}
