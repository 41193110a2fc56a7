//! Whether a TPM holds what the application has loaded: digests are made here of the files themselves.

use crate::image::{BUNDLE, Content, POSTERN, SETTINGS};
use loader::config;
use loader::eventlog::{PCR_FILES, PCR_SETTINGS};
use loader::tpm::Values;
use sha2::{Digest, Sha384};

/// How the host begins to say what its record holds: `host: measured into 9: bundle: 0123…`.
const MEASURED: &str = "host: measured into ";

/// A measurement, as the host has found it.
struct Measurement<'a> {
    register: u32,
    name: &'a str,
    /// SHA-384, in lower case.
    digest: &'a str,
}

/// What has to be measured: register, name, content.
type Expected<'a> = (u32, &'static str, &'a [u8]);

/// Compares the registers of the TPM with the files of the volume that was booted from, where they are all that is measured and
/// no host has run; the error says what is wrong.
pub fn judge_alone(volume: &[Content], registers: &Values) -> Result<(), String> {
    let expected = expected(volume)?;
    for (register, value) in [PCR_SETTINGS, PCR_FILES].into_iter().zip(registers) {
        let own = expected.iter().filter(|one| one.0 == register);
        compare(register, value, own.map(|(.., content)| Sha384::digest(content).into()))?;
    }
    Ok(())
}

/// Whether a register holds these digests.
fn compare(register: u32, value: &[u8; 48], digests: impl Iterator<Item = [u8; 48]>) -> Result<(), String> {
    let wanted = digests.fold([0; 48], |before, digest| Sha384::digest([before, digest].concat()).into());
    if *value == wanted {
        return Ok(());
    }
    Err(format!("the TPM's register {register} is {}, and not {}", hex(value), hex(&wanted)))
}

/// Compares what the host has found in its record with the files of the volume that was booted from, and both with the registers
/// of the TPM; the error says what is wrong.
pub fn judge(log: &str, volume: &[Content], registers: &Values) -> Result<(), String> {
    let found: Vec<_> = log.lines().filter_map(measurement).collect();
    for (register, name, content) in expected(volume)? {
        let digest = hex(&Sha384::digest(content));
        let same = found.iter().filter(|one| (one.register, one.name, one.digest) == (register, name, &digest)).count();
        if same != 1 {
            return Err(format!("register {register} has {name} with its digest {same} times: {digest}"));
        }
    }
    for (register, value) in [PCR_SETTINGS, PCR_FILES].into_iter().zip(registers) {
        let own = found.iter().filter(|one| one.register == register);
        let digests = own.map(|one| bytes(one.digest).ok_or_else(|| format!("{} has no digest", one.name)));
        compare(register, value, digests.collect::<Result<Vec<_>, _>>()?.into_iter())?;
    }
    Ok(())
}

/// What has to be measured of the files of a volume, into which register, and under which name. Of what the application takes
/// from firmware, the device tree, only firmware knows what it is.
fn expected(volume: &[Content]) -> Result<Vec<Expected<'_>>, String> {
    let file = |path: &str| {
        let found = volume.iter().find(|(name, _)| name == path);
        found.map(|(_, content)| content.as_slice()).ok_or_else(|| format!("the volume has no {path}"))
    };
    let settings = file(SETTINGS)?;
    let mut all = vec![
        (PCR_SETTINGS, "postern.conf", settings),
        (PCR_FILES, "postern", file(POSTERN)?),
        (PCR_FILES, "bundle", file(BUNDLE)?),
    ];
    let parsed = config::parse(settings).map_err(|error| error.to_string())?;
    let lines = [(abi::bundle::HOST_CMDLINE, parsed.host_cmdline), (abi::bundle::GUEST_CMDLINE, parsed.guest_cmdline)];
    all.extend(lines.into_iter().filter_map(|(name, text)| Some((PCR_SETTINGS, name, text?.as_bytes()))));
    Ok(all)
}

fn measurement(line: &str) -> Option<Measurement<'_>> {
    let mut parts = line.strip_prefix(MEASURED)?.split(": ");
    Some(Measurement { register: parts.next()?.parse().ok()?, name: parts.next()?, digest: parts.next()? })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Option<[u8; 48]> {
    let pairs = hex.as_bytes().as_chunks::<2>().0;
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.iter().map(byte).collect::<Option<Vec<u8>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extend(value: [u8; 48], content: &[u8]) -> [u8; 48] {
        Sha384::digest([&value[..], &Sha384::digest(content)].concat()).into()
    }

    fn line(register: u32, name: &str, content: &[u8]) -> String {
        format!("{MEASURED}{register}: {name}: {}\n", hex(&Sha384::digest(content)))
    }

    #[test]
    fn only_registers_of_these_very_files_pass() {
        let settings = b"bundle = /b\nguest-cmdline = x y\n";
        let files = [(SETTINGS, &settings[..]), (POSTERN, b"one"), (BUNDLE, b"two")];
        let volume = files.map(|(path, content)| (path.to_owned(), content.to_vec()));
        let files = line(9, "postern", b"one") + &line(9, "bundle", b"two") + &line(9, "device-tree", b"three");
        let log = line(8, "postern.conf", settings) + &line(8, "guest/cmdline", b"x y") + &files;
        let of_settings = extend(extend([0; 48], settings), b"x y");
        let of_files = extend(extend(extend([0; 48], b"one"), b"two"), b"three");
        assert_eq!(judge(&log, &volume, &[of_settings, of_files]), Ok(()));
        assert!(judge(&log, &volume, &[of_files, of_settings]).is_err(), "the wrong way round");
        assert!(judge(&log, &volume, &[of_settings, [0; 48]]).is_err(), "not measured");
        assert!(judge("", &volume, &[[0; 48]; 2]).is_err(), "no record");
        let other = log.replace(&line(9, "postern", b"one"), &line(9, "postern", b"another"));
        let of_other = extend(extend(extend([0; 48], b"another"), b"two"), b"three");
        assert!(judge(&other, &volume, &[of_settings, of_other]).is_err(), "another file than there is");
        assert_eq!(bytes("0g"), None);
        let of_files = extend(extend([0; 48], b"one"), b"two");
        assert_eq!(judge_alone(&volume, &[of_settings, of_files]), Ok(()));
        assert!(
            judge_alone(&volume, &[of_settings, extend(extend([0; 48], b"two"), b"one")]).is_err(),
            "another order"
        );
    }
}
