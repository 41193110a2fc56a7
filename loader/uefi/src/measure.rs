//! Measurements: each thing that decides what runs goes into a log, and into the TPM where there is one.

use alloc::format;
use alloc::string::{String, ToString};
use loader::config::Tpm;
use loader::eventlog::{EventLog, IPL};
use loader::tpm::{self, Values};
use sha2::{Digest, Sha384};
use uefi::Status;
use uefi::boot::{self, ScopedProtocol};
use uefi::proto::tcg::v2::{HashLogExtendEventFlags, PcrEventInputs, Tcg};
use uefi::proto::tcg::{EventType, PcrIndex};

/// The log and the TPM.
pub struct Measurements {
    /// The log.
    pub log: EventLog,
    tpm: Option<ScopedProtocol<Tcg>>,
    /// The TPM's registers before anything was measured; `None` where it does not keep them.
    before: Option<Values>,
    required: bool,
    /// Ticks spent on it.
    pub ticks: u64,
    /// Bytes measured.
    pub bytes: u64,
}

impl Measurements {
    /// Looks for the TPM.
    pub fn new(wish: Tpm) -> Result<Self, String> {
        let mut tpm = match wish {
            Tpm::Off => None,
            _ => find(),
        };
        if tpm.is_none() && wish == Tpm::Required {
            return Err("the settings say `tpm = required`, and firmware offers no TPM 2.0".to_string());
        }
        let before = tpm.as_mut().and_then(read);
        // Measurements are SHA-384: without its registers nothing shows that they are what is logged.
        if tpm.is_some() && before.is_none() && wish == Tpm::Required {
            let remedy = "turn its SHA-384 bank on in firmware's set-up";
            return Err(format!("the settings say `tpm = required`, and the TPM has no SHA-384 registers: {remedy}"));
        }
        Ok(Self { log: EventLog::new(), tpm, before, required: wish == Tpm::Required, ticks: 0, bytes: 0 })
    }

    /// Whether a TPM takes part.
    pub fn has_tpm(&self) -> bool {
        self.tpm.is_some()
    }

    /// Compares the TPM's registers with the log, and says in a sentence what came of it.
    ///
    /// # Errors
    /// They differ although the settings say that a TPM is required.
    pub fn check(&mut self) -> Result<&'static str, String> {
        let Some(device) = &mut self.tpm else { return Ok("no TPM") };
        let Some(before) = &self.before else { return Ok("TPM without SHA-384 registers") };
        if read(device) == Some(tpm::replay(before, self.log.bytes())) {
            return Ok("TPM, whose registers 8 and 9 are as the log says");
        }
        match self.required {
            true => Err("the TPM's registers are not what was measured into them".to_string()),
            false => Ok("TPM, whose registers 8 and 9 are NOT as the log says"),
        }
    }

    /// Measures `data` into `register` as `description`.
    pub fn add(&mut self, register: u32, data: &[u8], description: &str) -> Result<(), String> {
        let start = crate::machine::counter();
        self.log.append(register, &Sha384::digest(data).into(), description);
        if let Some(tpm) = &mut self.tpm {
            let failed = |error: uefi::Error| format!("the TPM did not take the measurement of {description}: {error}");
            let event = PcrEventInputs::new_in_box(PcrIndex(register), EventType(IPL), description.as_bytes());
            let event = event.map_err(failed)?;
            match tpm.hash_log_extend_event(HashLogExtendEventFlags::empty(), data, &event) {
                // The register has been extended, and firmware's own log is full (TCG EFI Protocol Specification, section
                // "EFI_TCG2_PROTOCOL.HashLogExtendEvent"). Ours is not.
                Err(error) if error.status() == Status::VOLUME_FULL => {}
                done => done.map_err(failed)?,
            }
        }
        self.ticks += crate::machine::counter() - start;
        self.bytes += data.len() as u64;
        Ok(())
    }
}

/// The registers that are measured into.
fn read(device: &mut ScopedProtocol<Tcg>) -> Option<Values> {
    // Header, counter, selection, two digests.
    let mut answer = [0; 256];
    device.submit_command(&tpm::read_command(), &mut answer).ok()?;
    tpm::values(&answer)
}

fn find() -> Option<ScopedProtocol<Tcg>> {
    let handle = boot::get_handle_for_protocol::<Tcg>().ok()?;
    let mut tpm = boot::open_protocol_exclusive::<Tcg>(handle).ok()?;
    tpm.get_capability().is_ok_and(|capability| capability.tpm_present()).then_some(tpm)
}
