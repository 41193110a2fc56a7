//! A TPM 2.0 for QEMU's machine: swtpm, which is asked for its registers when the machine is gone.

use crate::paths::Scratch;
use crate::setup::private::Private;
use anyhow::{Context, Result, ensure};
use loader::tpm::{self, Values};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::fs;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// CMD_GET_CAPABILITY of swtpm's control channel (swtpm_ioctls(3)): answered by a result and 32 bits.
const GET_CAPABILITY: u32 = 1;
/// CMD_SET_DATAFD of swtpm's control channel (swtpm_ioctls(3)): commands come from the socket that is sent along.
const SET_DATA: u32 = 0x10;
/// Longest answer that is taken, in bytes (MAX_RESPONSE_SIZE of common TPMs).
const ANSWER_MAX: usize = 4096;

/// A TPM; it ends when dropped.
pub struct Tpm {
    process: Child,
    folder: Scratch,
}

impl Tpm {
    /// Switches a new TPM on, and plugs it into the machine by this interface.
    pub fn plug_in(program: &Private, qemu: &mut Command, interface: &str) -> Result<Self> {
        let folder = Scratch::new()?;
        let control = folder.0.join("control");
        // It inherits the socket as its standard input, so QEMU can connect from now on.
        let listener = UnixListener::bind(&control).with_context(|| format!("{} cannot be made", control.display()))?;
        let mut command = program.command("swtpm");
        command.args(["socket", "--tpm2", "--ctrl", "type=unixio,fd=0", "--tpmstate"]);
        command.arg(format!("dir={}", folder.0.display())).stdin(OwnedFd::from(listener)).stdout(Stdio::null());
        let process = command.stderr(fs::File::create(folder.0.join("errors"))?).spawn();
        let tpm = Tpm { process: process.context("the TPM's emulator, swtpm, does not start")?, folder };
        // With it our copy of the socket goes: if there is nobody to answer, one sees it.
        drop(command);
        tpm.greet().with_context(|| {
            let remedy = "`cargo xtask setup` repairs it if it is damaged";
            format!("the TPM's emulator, swtpm, does not work ({}): {remedy}", tpm.complaint())
        })?;
        qemu.arg("-chardev").arg(format!("socket,id=tpm,path={}", control.display()));
        qemu.args(["-tpmdev", "emulator,id=tpm,chardev=tpm", "-device"]).arg(format!("{interface},tpmdev=tpm"));
        // A machine that is switched off would switch its TPM off.
        qemu.args(["-action", "shutdown=pause"]);
        Ok(tpm)
    }

    /// Whether it listens.
    fn greet(&self) -> Result<()> {
        let mut control = UnixStream::connect(self.file("control"))?;
        control.set_read_timeout(Some(PATIENCE))?;
        control.write_all(&GET_CAPABILITY.to_be_bytes())?;
        Ok(control.read_exact(&mut [0; 8])?)
    }

    /// The first that it has complained of: what follows may be how it is used.
    fn complaint(&self) -> String {
        let errors = fs::read_to_string(self.file("errors")).unwrap_or_default();
        errors.lines().find(|line| !line.trim().is_empty()).unwrap_or("it has not complained").to_owned()
    }

    /// What the registers hold that the application measures into. The machine has to be gone: the TPM listens to one at a
    /// time.
    pub fn registers(&self) -> Result<Values> {
        self.ask().with_context(|| format!("the TPM cannot be asked ({})", self.complaint()))
    }

    fn ask(&self) -> Result<Values> {
        let mut control = UnixStream::connect(self.file("control"))?;
        let (mut own, other) = UnixStream::pair()?;
        for stream in [&control, &own] {
            stream.set_read_timeout(Some(PATIENCE))?;
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut along = SendAncillaryBuffer::new(&mut space);
        let sockets = [other.as_fd()];
        ensure!(along.push(SendAncillaryMessage::ScmRights(&sockets)), "no room for a socket");
        let command = SET_DATA.to_be_bytes();
        sendmsg(&control, &[IoSlice::new(&command)], &mut along, SendFlags::empty())?;
        let mut result = [0; 4];
        control.read_exact(&mut result)?;
        ensure!(result == [0; 4], "it does not take a socket: {result:x?}");
        drop(other);
        own.write_all(&tpm::read_command())?;
        // Tag and size, then the rest.
        let mut answer = vec![0; 6];
        own.read_exact(&mut answer)?;
        let size = u32::from_be_bytes([2, 3, 4, 5].map(|index| answer[index])) as usize;
        ensure!((answer.len()..=ANSWER_MAX).contains(&size), "an answer of {size} bytes");
        answer.resize(size, 0);
        own.read_exact(&mut answer[6..])?;
        tpm::values(&answer).with_context(|| format!("it answers {answer:x?}"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
