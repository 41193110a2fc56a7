//! How a session in the emulator ended, judged by the log, the guest's console and the emulator itself.

use abi::bundle::{CRASH_MARKER, END_MARKER};
use std::fmt;

/// What a Linux guest prints when it gives up.
const PANIC: &str = "Kernel panic - not syncing";
/// What Postern or its application prints before it gives up booting.
pub const BOOT_REFUSED: &str = "postern: cannot boot: ";
/// What the UEFI application prints first.
pub const APPLICATION: &str = "postern: UEFI application ";
/// What firmware prints when no disk is left to boot: its shell comes last, if it has one.
const NO_DISK_LEFT: [&str; 2] = ["\"EFI Internal Shell\"", "BdsDxe: No bootable option"];
/// Lines of a crash record that are kept.
const RECORD_LINES: usize = 60;

/// The end of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The guest powered off and the host took everything back.
    Ok,
    /// The host ended the session for this reason.
    Ended(String),
    /// Postern crashed: its record.
    Crash(Vec<String>),
    /// The guest's kernel panicked, saying this.
    Panic(String),
    /// Nothing ended the session within this many seconds.
    Timeout(u64),
    /// The emulator ended without an end marker in the log.
    Died(String),
    /// The user stopped it.
    Interrupted,
}

impl Verdict {
    /// True for a clean end.
    pub fn is_ok(&self) -> bool {
        *self == Verdict::Ok
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Ok => write!(f, "ok"),
            Verdict::Ended(reason) => write!(f, "{reason}"),
            Verdict::Crash(record) => write!(f, "hypervisor crash: {}", record.first().map_or("", String::as_str)),
            Verdict::Panic(text) => write!(f, "guest panic: {text}"),
            Verdict::Timeout(seconds) => write!(f, "timeout: no end within {seconds} s"),
            Verdict::Died(reason) => write!(f, "the emulator ended by itself: {reason}"),
            Verdict::Interrupted => write!(f, "interrupted"),
        }
    }
}

/// Collects evidence line by line.
#[derive(Default)]
pub struct Evidence {
    end: Option<String>,
    /// Why the last attempt to boot failed. Firmware may make another.
    refusal: Option<String>,
    /// Firmware makes no other.
    no_disk_left: bool,
    crash: Vec<String>,
    panic: Option<String>,
    console_line: String,
    last_log: String,
}

impl Evidence {
    /// A line of the hypervisor's and host's log.
    pub fn log(&mut self, line: &str) {
        if let Some((_, text)) = line.split_once(CRASH_MARKER).filter(|_| self.crash.is_empty()) {
            self.crash.push(text.trim().to_owned());
        } else if !self.crash.is_empty() && self.crash.len() < RECORD_LINES {
            self.crash.push(line.trim_end().to_owned());
        }
        // Only at the start of a line: the host copies some of the guest's lines into the log, behind a prefix.
        let end = line.strip_prefix(END_MARKER).map(|reason| reason.trim().to_owned());
        let refusal = line.strip_prefix(BOOT_REFUSED).map(|reason| format!("Postern cannot boot: {}", reason.trim()));
        self.end = self.end.take().or(end);
        self.refusal = self.refusal.take().or(refusal).filter(|_| !line.starts_with(APPLICATION));
        self.no_disk_left |= NO_DISK_LEFT.iter().any(|text| line.contains(text));
        if !line.trim().is_empty() {
            self.last_log = line.trim().to_owned();
        }
    }

    /// Bytes of the guest's console; the completed lines.
    pub fn console(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.console_line.push(char::from(*byte));
                continue;
            }
            let line = std::mem::take(&mut self.console_line).trim_end().to_owned();
            if let Some((_, text)) = line.split_once(PANIC) {
                self.panic.get_or_insert(text.trim_start_matches(':').trim().to_owned());
            }
            lines.push(line);
        }
        lines
    }

    /// Has something been seen after which a session does not go on?
    pub fn is_over(&self) -> bool {
        self.end.is_some() || self.refusal.is_some() || !self.crash.is_empty() || self.panic.is_some()
    }

    /// True while the last that was seen is that an attempt to boot failed.
    pub fn was_refused(&self) -> bool {
        self.end.is_none() && self.refusal.is_some()
    }

    /// True once Postern has crashed, the guest's kernel has panicked or no disk is left to boot: nothing switches the machine
    /// off then.
    pub fn stays_on(&self) -> bool {
        !self.crash.is_empty() || self.panic.is_some() || self.no_disk_left
    }

    /// The verdict, when the session ended in the way `otherwise` says if nothing seen so far explains more.
    pub fn verdict(self, otherwise: Verdict) -> Verdict {
        if !self.crash.is_empty() {
            return Verdict::Crash(self.crash);
        }
        if let Some(text) = self.panic.filter(|_| self.end.as_deref() != Some("ok")) {
            return Verdict::Panic(text);
        }
        match (self.end.or(self.refusal).as_deref(), otherwise) {
            (Some("ok"), _) => Verdict::Ok,
            (Some(reason), _) => Verdict::Ended(reason.to_owned()),
            (None, Verdict::Died(why)) if why.is_empty() && self.last_log.is_empty() => Verdict::Died("no log".into()),
            (None, Verdict::Died(why)) if why.is_empty() => Verdict::Died(format!("last log line: {}", self.last_log)),
            (None, otherwise) => otherwise,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(log: &[&str], console: &str, otherwise: Verdict) -> Verdict {
        let mut evidence = Evidence::default();
        log.iter().for_each(|line| evidence.log(line));
        evidence.console(console.as_bytes());
        evidence.verdict(otherwise)
    }

    #[test]
    fn the_log_decides() {
        let died = || Verdict::Died(String::new());
        assert_eq!(judge(&["POSTERN-END: ok"], "", died()), Verdict::Ok);
        assert_eq!(judge(&["POSTERN-END: guest reset"], "", died()), Verdict::Ended("guest reset".into()));
        let refused = judge(&["postern: cannot boot: no initrd"], "", died());
        assert_eq!(refused, Verdict::Ended("Postern cannot boot: no initrd".into()));
        let again = ["postern: cannot boot: x", "postern: UEFI application 0.1", "POSTERN-END: ok"];
        assert_eq!(judge(&again, "", died()), Verdict::Ok, "another attempt");
        assert_eq!(
            judge(&again[..2], "", died()).to_string(),
            "the emulator ended by itself: last log line: postern: UEFI application 0.1"
        );
        let mut evidence = Evidence::default();
        evidence.log("postern: cannot boot: x");
        assert!(!evidence.stays_on());
        evidence.log("BdsDxe: loading Boot0002 \"EFI Internal Shell\" from Fv(x)");
        assert!(evidence.stays_on() && evidence.is_over());
        let crash = judge(&["POSTERN-CRASH: bug at x", "esr 0"], "", Verdict::Timeout(1));
        assert_eq!(crash, Verdict::Crash(vec!["bug at x".into(), "esr 0".into()]));
        assert_eq!(crash.to_string(), "hypervisor crash: bug at x");
        assert_eq!(judge(&["hello"], "", died()), Verdict::Died("last log line: hello".into()));
        assert_eq!(judge(&["hello"], "", Verdict::Timeout(9)), Verdict::Timeout(9));
    }

    #[test]
    fn a_crash_beats_a_later_end() {
        let log = ["POSTERN-CRASH: bug", "POSTERN-END: ok"];
        assert!(matches!(judge(&log, "", Verdict::Interrupted), Verdict::Crash(_)));
    }

    #[test]
    fn a_guest_panic_is_seen_but_a_guest_cannot_fake_an_end() {
        let console = "x\r\n[ 1.0] Kernel panic - not syncing: VFS: no root\r\n";
        assert_eq!(judge(&[], console, Verdict::Timeout(5)), Verdict::Panic("VFS: no root".into()));
        assert_eq!(
            judge(&["POSTERN-END: guest reset"], console, Verdict::Timeout(5)).to_string(),
            "guest panic: VFS: no root"
        );
        let fake = judge(&["guest: POSTERN-END: ok"], "POSTERN-END: ok\nPOSTERN-CRASH: no\n", Verdict::Timeout(5));
        assert_eq!(fake, Verdict::Timeout(5));
    }
}
