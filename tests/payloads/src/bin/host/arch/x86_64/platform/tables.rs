//! A guest's ACPI tables (ACPI specification 6.5, chapter 5): a hardware-reduced machine with one serial port.

use crate::vm::Shape;
use alloc::vec;
use alloc::vec::Vec;
use payloads::pc;

/// FADT flags: WBINVD works, there is a reset register, hardware-reduced.
const FADT_FLAGS: u32 = 1 | 1 << 10 | 1 << 20;
/// No VGA, no CMOS clock.
const FADT_BOOT: u16 = 1 << 2 | 1 << 5;

/// All tables, for [`pc::TABLES`]; the root pointer comes first.
pub fn build(shape: &Shape) -> Vec<u8> {
    let mut out = vec![0; 64];
    let mut add = |table: Vec<u8>| {
        let at = pc::TABLES + out.len() as u64;
        out.extend(table);
        out.resize(out.len().next_multiple_of(16), 0);
        at
    };
    let dsdt = add(table(b"DSDT", 2, &dsdt()));
    let fadt = add(table(b"FACP", 6, &fadt(dsdt)));
    let madt = add(table(b"APIC", 5, &madt(shape)));
    let list: Vec<u8> = [fadt, madt].into_iter().flat_map(u64::to_le_bytes).collect();
    let xsdt = add(table(b"XSDT", 1, &list));
    let mut root = b"RSD PTR \0POSTRN\x02".to_vec();
    root.extend([0; 4]);
    root.extend(36u32.to_le_bytes());
    root.extend(xsdt.to_le_bytes());
    root.extend([0; 4]);
    // The first sum covers the first 20 bytes, the second all 36.
    root[8] = checksum(&root[..20]);
    root[32] = checksum(&root);
    out[..root.len()].copy_from_slice(&root);
    assert!(out.len() as u64 <= pc::TABLES_SIZE, "the tables fit their page");
    out
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte))
}

/// A table with its header.
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut out = signature.to_vec();
    out.extend((36 + body.len() as u32).to_le_bytes());
    out.extend([revision, 0]);
    out.extend(b"POSTRNTESTHOST");
    out.extend(1u32.to_le_bytes());
    out.extend(b"PSTN");
    out.extend(1u32.to_le_bytes());
    out.extend(body);
    out[9] = checksum(&out);
    out
}

/// A byte-wide I/O port as a generic address.
fn port(number: u16) -> [u8; 12] {
    let mut out = [1, 8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    out[4..6].copy_from_slice(&number.to_le_bytes());
    out
}

fn fadt(dsdt: u64) -> Vec<u8> {
    const HEADER: usize = 36;
    let mut out = vec![0; 276 - HEADER];
    let mut put = |at: usize, bytes: &[u8]| out[at - HEADER..at - HEADER + bytes.len()].copy_from_slice(bytes);
    put(40, &(dsdt as u32).to_le_bytes());
    put(109, &FADT_BOOT.to_le_bytes());
    put(112, &FADT_FLAGS.to_le_bytes());
    put(116, &port(pc::RESET));
    put(128, &[pc::RESET_VALUE]);
    put(131, &[5]);
    put(140, &dsdt.to_le_bytes());
    put(244, &port(pc::SLEEP_CONTROL));
    put(256, &port(pc::SLEEP_CONTROL + 1));
    out
}

fn madt(shape: &Shape) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(0xfee0_0000u32.to_le_bytes());
    out.extend(0u32.to_le_bytes());
    for index in 0..shape.vcpus as u8 {
        // Local APIC, enabled.
        out.extend([0, 8, index, index, 1, 0, 0, 0]);
    }
    out.extend([1, 12, 0, 0]);
    out.extend((pc::IO_APIC as u32).to_le_bytes());
    out.extend(0u32.to_le_bytes());
    // Multiprocessor wake-up, version 0.
    out.extend([16, 16, 0, 0, 0, 0, 0, 0]);
    out.extend(pc::MAILBOX.to_le_bytes());
    out
}

/// An AML object whose length comes after its opcode; all of them are short here.
fn package(opcode: &[u8], content: &[&[u8]]) -> Vec<u8> {
    let content = content.concat();
    assert!(content.len() < 63, "a length of one byte");
    [opcode, &[content.len() as u8 + 1], &content].concat()
}

/// `\_SB.COM1` with its ports and its interrupt, edge-triggered and active high; `\_S5`.
fn dsdt() -> Vec<u8> {
    let [low, high] = pc::COM1.to_le_bytes();
    let ports = [0x47, 1, low, high, low, high, 1, 8];
    let interrupt = [0x89, 6, 0, 3, 1, pc::COM1_PIN as u8, 0, 0, 0];
    let resources = [&ports[..], &interrupt, &[0x79, 0]].concat();
    let buffer = package(&[0x11], &[&[0x0a, resources.len() as u8], &resources]);
    // PNP0501 as a compressed EISA identifier.
    let hid = b"\x08_HID\x0c\x41\xd0\x05\x01";
    let device = package(&[0x5b, 0x82], &[b"COM1", hid, b"\x08_UID\x01", b"\x08_CRS", &buffer]);
    let scope = package(&[0x10], &[b"\\_SB_", &device]);
    let off = package(&[0x12], &[&[4, 0x0a, 5, 0, 0, 0]]);
    [&scope[..], b"\x08\\_S5_", &off].concat()
}
