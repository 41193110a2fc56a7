//! The UEFI application's settings: lines of `name = value` in a file on its own volume.
//!
//! A `#` starts a comment at the start of a line; blank lines do not count. Every name may be there once. A value is the
//! rest of the line without the blanks around it. Paths are absolute on the application's volume; `/` and `\` are the
//! same in them.
//!
//! | name | value |
//! |---|---|
//! | `hypervisor` | Postern's own image |
//! | `bundle` | a bundle, as `cargo xtask image` makes one |
//! | `host-kernel`, `host-initrd`, `guest-kernel`, `guest-initrd` | files that come before those of the bundle |
//! | `host-cmdline`, `guest-cmdline` | command lines, as they are |
//! | `device-tree` | the board's device tree, in place of the firmware's (arm64) |
//! | `console` | path or alias of the UART's node for the log, with options as in `stdout-path` (arm64) |
//! | `log-level` | `error`, `warn`, `info`, `debug` or `trace` |
//! | `tpm` | `auto` (default), `off`, or `required` |

use core::fmt;

/// Largest file that is read, in bytes.
pub const SIZE_MAX: usize = 64 << 10;
/// Longest path, in characters.
pub const PATH_MAX: usize = 200;
/// Where Postern's image is when the file does not say.
pub const HYPERVISOR: &str = "\\EFI\\POSTERN\\postern";

/// What to do with the machine's TPM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tpm {
    /// Measure into it when it is there.
    #[default]
    Auto,
    /// Leave it alone.
    Off,
    /// Do not boot without it.
    Required,
}

/// The settings; what is absent from the file is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config<'a> {
    /// Postern's image.
    pub hypervisor: Option<&'a str>,
    /// Bundle.
    pub bundle: Option<&'a str>,
    /// Kernel of the host.
    pub host_kernel: Option<&'a str>,
    /// Initrd of the host.
    pub host_initrd: Option<&'a str>,
    /// Command line of the host.
    pub host_cmdline: Option<&'a str>,
    /// Kernel of the guest.
    pub guest_kernel: Option<&'a str>,
    /// Initrd of the guest.
    pub guest_initrd: Option<&'a str>,
    /// Command line of the guest.
    pub guest_cmdline: Option<&'a str>,
    /// Device tree in place of the firmware's.
    pub device_tree: Option<&'a str>,
    /// `stdout-path` in place of the device tree's.
    pub console: Option<&'a str>,
    /// As in [`abi::handoff::HandOff::log_level`].
    pub log_level: u32,
    /// TPM.
    pub tpm: Tpm,
}

/// A line that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigError<'a> {
    /// Line number, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong with it.
    pub fault: Fault<'a>,
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault<'a> {
    /// More than [`SIZE_MAX`].
    Large,
    /// Bytes that are no UTF-8, or control characters.
    Characters,
    /// No `=`.
    Equals,
    /// A name that means nothing.
    Name(&'a str),
    /// A name for the second time.
    Again(&'a str),
    /// Nothing behind the `=`.
    Empty(&'a str),
    /// Not one of the values that this name takes.
    Value(&'a str, &'static str),
    /// Not an absolute path, or too long.
    Path(&'a str),
    /// Neither a bundle nor a host kernel.
    NoHost,
}

impl fmt::Display for ConfigError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        match self.fault {
            Fault::Large => write!(f, "it is larger than {} KiB", SIZE_MAX >> 10),
            Fault::Characters => write!(f, "it holds what is no text in UTF-8"),
            Fault::Equals => write!(f, "write it as `name = value`, or start it with # as a comment"),
            Fault::Name(name) => write!(f, "there is no setting `{name}`"),
            Fault::Again(name) => write!(f, "`{name}` was set before"),
            Fault::Empty(name) => write!(f, "`{name}` has no value"),
            Fault::Value(name, values) => write!(f, "`{name}` takes {values}"),
            Fault::Path(name) => {
                write!(f, "`{name}` takes a path from the top of this volume, such as \\EFI\\POSTERN\\bundle.cpio")
            }
            Fault::NoHost => write!(f, "it names neither a `bundle` nor a `host-kernel`"),
        }
    }
}

/// Reads a whole file.
///
/// # Errors
/// The first line that is wrong.
pub fn parse(file: &[u8]) -> Result<Config<'_>, ConfigError<'_>> {
    let whole = |fault| ConfigError { line: 0, fault };
    if file.len() > SIZE_MAX {
        return Err(whole(Fault::Large));
    }
    // Editors on some systems put a byte order mark first.
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let mut config = Config::default();
    let mut seen = 0;
    for (index, line) in file.split(|byte| *byte == b'\n').enumerate() {
        let at = |fault| ConfigError { line: index + 1, fault };
        let text = core::str::from_utf8(line).map_err(|_| at(Fault::Characters))?.trim();
        if text.chars().any(|c| c.is_control() && c != '\t') {
            return Err(at(Fault::Characters));
        }
        if !text.is_empty() && !text.starts_with('#') {
            setting(&mut config, &mut seen, text).map_err(at)?;
        }
    }
    if config.bundle.is_none() && config.host_kernel.is_none() {
        return Err(whole(Fault::NoHost));
    }
    Ok(config)
}

fn setting<'a>(config: &mut Config<'a>, seen: &mut u32, text: &'a str) -> Result<(), Fault<'a>> {
    let (name, value) = text.split_once('=').ok_or(Fault::Equals)?;
    let (name, value) = (name.trim_end(), value.trim_start());
    let is_path = !name.ends_with("cmdline");
    let (number, slot) = match name {
        "hypervisor" => (0, &mut config.hypervisor),
        "bundle" => (1, &mut config.bundle),
        "host-kernel" => (2, &mut config.host_kernel),
        "host-initrd" => (3, &mut config.host_initrd),
        "host-cmdline" => (4, &mut config.host_cmdline),
        "guest-kernel" => (5, &mut config.guest_kernel),
        "guest-initrd" => (6, &mut config.guest_initrd),
        "guest-cmdline" => (7, &mut config.guest_cmdline),
        "device-tree" => (8, &mut config.device_tree),
        "console" | "log-level" | "tpm" => return word(config, seen, name, value),
        _ => return Err(Fault::Name(name)),
    };
    first(seen, number, name, value)?;
    if is_path && !(value.starts_with(['\\', '/']) && value.chars().count() <= PATH_MAX) {
        return Err(Fault::Path(name));
    }
    *slot = Some(value);
    Ok(())
}

/// Settings whose value is no path and no command line.
fn word<'a>(config: &mut Config<'a>, seen: &mut u32, name: &'a str, value: &'a str) -> Result<(), Fault<'a>> {
    match name {
        "console" => {
            first(seen, 16, name, value)?;
            config.console = Some(value);
        }
        "log-level" => {
            first(seen, 17, name, value)?;
            config.log_level = log_level(value).ok_or(Fault::Value(name, LOG_LEVELS))?;
        }
        _ => {
            first(seen, 18, name, value)?;
            config.tpm = match value {
                "auto" => Tpm::Auto,
                "off" => Tpm::Off,
                "required" => Tpm::Required,
                _ => return Err(Fault::Value(name, "auto, off or required")),
            };
        }
    }
    Ok(())
}

/// What [`log_level`] knows, for people.
pub const LOG_LEVELS: &str = "error, warn, info, debug or trace";

/// A log level by its name, as in [`abi::handoff::HandOff::log_level`].
pub fn log_level(name: &str) -> Option<u32> {
    let levels = ["error", "warn", "info", "debug", "trace"];
    levels.iter().position(|level| *level == name).map(|level| level as u32 + 1)
}

/// A value that is there, for a name that is there for the first time.
fn first<'a>(seen: &mut u32, number: u32, name: &'a str, value: &str) -> Result<(), Fault<'a>> {
    if *seen & 1 << number != 0 {
        return Err(Fault::Again(name));
    }
    if value.is_empty() {
        return Err(Fault::Empty(name));
    }
    *seen |= 1 << number;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_whole_file_is_read() {
        let file = b"\xef\xbb\xbf# Postern\r\n\n bundle = /EFI/POSTERN/bundle.cpio \r\nhost-cmdline=console=ttyAMA0 # no comment\n\
                     log-level = debug\ntpm = required\nconsole = serial0:115200";
        let config = parse(file).unwrap();
        assert_eq!(config.bundle, Some("/EFI/POSTERN/bundle.cpio"));
        assert_eq!(config.host_cmdline, Some("console=ttyAMA0 # no comment"));
        assert_eq!((config.log_level, config.tpm, config.console), (4, Tpm::Required, Some("serial0:115200")));
        assert_eq!(config.hypervisor, None);
    }

    #[test]
    fn errors_say_where_and_what() {
        let long = ["bundle=\\", &"x".repeat(PATH_MAX)].concat();
        for (file, error) in [
            (&b""[..], "it names neither a `bundle` nor a `host-kernel`"),
            (b"bundle = \\b\nhello", "line 2: write it as `name = value`, or start it with # as a comment"),
            (b"\n\nkernel = \\k", "line 3: there is no setting `kernel`"),
            (b"bundle = \\b\nbundle = \\b", "line 2: `bundle` was set before"),
            (b"tpm = off\n#\ntpm = off", "line 3: `tpm` was set before"),
            (b"bundle =", "line 1: `bundle` has no value"),
            (b"log-level = loud", "line 1: `log-level` takes error, warn, info, debug or trace"),
            (b"tpm = yes", "line 1: `tpm` takes auto, off or required"),
            (b"host-kernel = Image", "line 1: `host-kernel` takes a path from the top"),
            (long.as_bytes(), "line 1: `bundle` takes a path"),
            (b"bundle = \\b\n\xff", "line 2: it holds what is no text"),
            (b"bundle = \\b\0", "line 1: it holds what is no text"),
            (&[b'#'; SIZE_MAX + 1], "it is larger than 64 KiB"),
        ] {
            let said = parse(file).unwrap_err().to_string();
            assert!(said.starts_with(error), "{said}");
        }
    }
}
