//! Secure Boot with a key that is made for the occasion.

use super::{Chain, Media};
use crate::arch::Arch;
use crate::firmware::Boot;
use crate::image::{self, Content, SETTINGS};
use crate::paths::Scratch;
use crate::setup::{Cache, signing, uefi};
use anyhow::{Context, Result, bail};
use std::fs;

/// Owner of platform key and key exchange key, and of the signature database (UEFI Specification 2.10, sections 3.3 and 32.6.1).
const GLOBAL: u128 = 0x8be4df61_93ca_11d2_aa0d_00e098032b8c;
const DATABASE: u128 = 0xd719b2cb_3d3a_4596_a3bc_dad00e67656f;
/// EFI_CERT_X509_GUID (section 32.4.1).
const X509: u128 = 0xa5c059a1_94e4_4aa7_87b5_ab155c2bf072;
/// Kind of the store of variables that EDK II keeps: with authentication.
const STORE: u128 = 0xaaf32c78_947b_439a_a180_2e144ec37792;
/// Non-volatile, boot services, runtime, authenticated by time.
const ATTRIBUTES: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 5;

/// Firmware with a key in its database, and programs with and without its signature.
pub fn prepare(arch: Arch) -> Result<Chain> {
    let cache = Cache::open()?;
    let (firmware, variables) = uefi::secure_firmware(&cache)?;
    let tools = signing::tools(&cache)?;
    drop(cache);
    let folder = Scratch::new()?;
    let key = signing::make_key(&tools, &folder.0)?;
    let mut store = fs::read(variables)?;
    for (owner, name) in [(GLOBAL, "PK"), (GLOBAL, "KEK"), (DATABASE, "db")] {
        enroll(&mut store, owner, name, &key.der)?;
    }
    let unsigned = image::programs(arch, Boot::Uefi, None, &folder.0)?.swap_remove(0);
    let programs = image::programs(arch, Boot::Uefi, Some((&key.key, &key.cert)), &folder.0)?;
    let mut altered = programs[0].clone();
    alter(&mut altered.1)?;
    Ok(Chain {
        firmware: Some(firmware),
        variables: Some(store),
        tpm: None,
        programs,
        media: Media::SecureBoot([unsigned, altered]),
    })
}

/// Changes one letter of what the program says.
fn alter(program: &mut [u8]) -> Result<()> {
    let text = b"cannot boot";
    let at = program.windows(text.len()).position(|bytes| bytes == text).context("the program never complains")?;
    program[at] = b'C';
    Ok(())
}

/// The files of a disk with another program, and with settings that tell when it has started.
pub fn disk(contents: &[Content], program: &Content) -> Vec<Content> {
    let other = |content: &Content| match content.0.as_str() {
        path if path == program.0 => program.clone(),
        SETTINGS => (SETTINGS.to_owned(), b"this-was-started = yes\n".to_vec()),
        _ => content.clone(),
    };
    contents.iter().map(other).collect()
}

/// Adds a variable with one certificate to a store without it: a firmware volume with a header, the store's header, and records
/// one behind the other (EDK II, `Guid/VariableFormat.h`).
fn enroll(flash: &mut [u8], owner: u128, name: &str, certificate: &[u8]) -> Result<()> {
    let half = |flash: &[u8], at: usize| u16::from_le_bytes([flash[at], flash[at + 1]]) as usize;
    let word = |flash: &[u8], at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|index| flash[at + index])) as usize;
    // Offset of the volume's own size of header.
    let store = half(flash, 48);
    if flash.get(40..44) != Some(b"_FVH") || flash.get(store..store + 16) != Some(&guid(STORE)[..]) {
        bail!("the firmware's variables are in a format that is not known here");
    }
    let end = store + word(flash, store + 16);
    let mut at = (store + 28).next_multiple_of(4);
    while half(flash, at) == 0x55aa {
        at = (at + 60 + word(flash, at + 36) + word(flash, at + 40)).next_multiple_of(4);
    }
    let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let data = signatures(owner, certificate);
    let mut record = vec![0xaa, 0x55, 0x3f, 0];
    record.extend(ATTRIBUTES.to_le_bytes());
    // No counter; a time (the first of January 2020); no index of a key.
    record.extend([0; 8]);
    record.extend([0xe4, 0x07, 1, 1]);
    record.extend([0; 16]);
    record.extend((name.len() as u32).to_le_bytes());
    record.extend((data.len() as u32).to_le_bytes());
    record.extend(guid(owner));
    record.extend(name);
    record.extend(data);
    let room = flash.get_mut(at..at + record.len()).filter(|_| at + record.len() < end);
    room.context("the firmware's variables are full")?.copy_from_slice(&record);
    Ok(())
}

/// EFI_SIGNATURE_LIST with one certificate (UEFI Specification 2.10, section 32.4.1).
fn signatures(owner: u128, certificate: &[u8]) -> Vec<u8> {
    let size = 16 + certificate.len() as u32;
    let mut list = guid(X509).to_vec();
    for word in [28 + size, 0, size] {
        list.extend(word.to_le_bytes());
    }
    list.extend(guid(owner));
    list.extend(certificate);
    list
}

/// The bytes of a GUID in memory: the first three fields little endian.
fn guid(number: u128) -> [u8; 16] {
    uuid::Uuid::from_u128(number).to_bytes_le()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_added_one_behind_the_other() {
        let mut flash = vec![0xff; 4096];
        flash[40..44].copy_from_slice(b"_FVH");
        flash[48..50].copy_from_slice(&72_u16.to_le_bytes());
        flash[72..88].copy_from_slice(&guid(STORE));
        flash[88..92].copy_from_slice(&2000_u32.to_le_bytes());
        enroll(&mut flash, GLOBAL, "PK", &[1; 101]).unwrap();
        enroll(&mut flash, DATABASE, "db", &[2; 100]).unwrap();
        assert_eq!(flash[100..104], [0xaa, 0x55, 0x3f, 0]);
        assert_eq!(flash[160..166], *b"P\0K\0\0\0");
        let second = 100 + 60 + 6 + 28 + 16 + 101 + 1;
        assert_eq!(flash[second..second + 4], [0xaa, 0x55, 0x3f, 0]);
        assert_eq!(flash[second + 44..second + 60], guid(DATABASE));
        assert!(enroll(&mut flash, GLOBAL, "KEK", &[3; 2000]).is_err(), "no room");
        assert!(enroll(&mut vec![0; 4096], GLOBAL, "PK", &[1; 100]).is_err(), "no store");
        assert_eq!(guid(0x8be4df61_93ca_11d2_aa0d_00e098032b8c)[..4], [0x61, 0xdf, 0xe4, 0x8b]);
    }
}
