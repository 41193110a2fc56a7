//! A guest's platform on x86-64: a PC without firmware, whose kernel is started by the 64-bit boot protocol (Linux
//! `Documentation/arch/x86/boot.rst`), with ACPI tables, a serial port, an I/O APIC, and little else.

mod stub;
mod tables;

use crate::launch::{Software, put};
use crate::memory::{Give, GuestMemory};
use crate::vm::{End, Shape, Vcpu, Vm};
use crate::{console, mailbox};
use abi::host::dialect;
use abi::{BLOCK_SIZE, FRAME_SIZE};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use loader::bzimage;
use payloads::ioapic::{IoApic, Message};
use payloads::{pc, timer};

pub use payloads::uart16550::{Effect, Uart16550 as ConsoleDevice};

/// Where guest RAM starts.
pub const RAM_BASE: u64 = 0;
/// There is no interrupt controller at an address.
pub const GICD_BASE: u64 = 0;
/// Nor this.
pub const GICR_BASE: u64 = 0;
/// Addresses outside of RAM, multiples of 2 MiB.
pub const OUTSIDE: [u64; 2] = [pc::MEMORY_END, 0xfee0_0000];
/// Powering off is the business of an emulated device: Postern would let the guest go on.
pub const OFF_IS_FINAL: bool = false;
/// All vCPUs run from the start; the stub has all but the first wait.
pub const ALL_START: bool = true;
/// Dialects by name; the first is what a config without one means.
pub const DIALECTS: &[(&str, u64)] = &[("tdx", dialect::TDX)];
/// Guests that measure: dialect, whether memory comes in 2 MiB, and the guest's test.
pub const BENCH: &[(u64, Give, &str)] = &[
    (dialect::TDX, Give::Page, "bench"),
    (dialect::TDX, Give::Pages, "bench-pages"),
    (dialect::TDX, Give::Blocks, "bench-blocks"),
];

/// How long a vCPU rests that reads [`pc::IDLE`], in milliseconds.
const REST_MS: u64 = 1;
/// Types of memory (ACPI specification, "Address Range Types").
const RAM: u32 = 1;
const ACPI: u32 = 3;
const NVS: u32 = 4;

/// Emulated devices beside the console and the mailbox.
#[derive(Default)]
pub struct Devices {
    io_apic: IoApic,
}

/// Where the vCPUs start and what they are told.
pub struct Entry {
    /// Guest address of the first instruction.
    pub start: u64,
    /// The argument.
    pub argument: u64,
}

/// Puts kernel, initrd, boot parameters, ACPI tables and stub into guest memory.
///
/// # Errors
/// A sentence for the user.
pub fn load(shape: &Shape, software: &Software<'_>, memory: &mut GuestMemory) -> Result<Entry, String> {
    let image = bzimage::parse(software.kernel, abi::bundle::GUEST_KERNEL).map_err(|error| format!("{error}"))?;
    // Where kernels like to be; small guests have no room there.
    let kernel = if shape.memory >= 128 << 20 { 16 << 20 } else { BLOCK_SIZE };
    let initrd = (kernel + image.size).next_multiple_of(BLOCK_SIZE);
    let content = software.initrd.unwrap_or(&[]);
    let needed = initrd + content.len() as u64;
    if needed > shape.memory {
        let (needed, have) = (needed.div_ceil(1 << 20), shape.memory >> 20);
        return Err(format!("the guest's kernel and initrd need {needed} MiB, it has {have} MiB"));
    }
    if shape.memory > pc::MEMORY_END {
        return Err(format!("the guest has more than {} MiB", pc::MEMORY_END >> 20));
    }
    put(memory, kernel, &software.kernel[image.skip..])?;
    put(memory, initrd, content)?;
    put(memory, pc::BOOT_PARAMS, &boot_parameters(shape, software, initrd))?;
    let mut line = software.arguments.as_bytes().to_vec();
    line.truncate(FRAME_SIZE as usize - 1);
    line.push(0);
    put(memory, pc::COMMAND_LINE, &line)?;
    put(memory, pc::TABLES, &tables::build(shape))?;
    put(memory, pc::MAILBOX, &[0; FRAME_SIZE as usize])?;
    put(memory, pc::STUB, stub::code())?;
    put(memory, pc::PAGE_TABLES, &stub::page_tables())?;
    Ok(Entry { start: pc::STUB, argument: kernel + image.entry })
}

/// The "zero page" (Linux `Documentation/arch/x86/zero-page.rst`).
fn boot_parameters(shape: &Shape, software: &Software<'_>, initrd: u64) -> Vec<u8> {
    let mut out = vec![0; FRAME_SIZE as usize];
    let header = bzimage::header(software.kernel);
    out[bzimage::HEADER..bzimage::HEADER + header.len()].copy_from_slice(header);
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x70, &pc::TABLES.to_le_bytes());
    // A boot loader without a number of its own.
    put(0x210, &[0xff]);
    let size = software.initrd.map_or(0, <[u8]>::len) as u32;
    if size != 0 {
        put(0x218, &(initrd as u32).to_le_bytes());
        put(0x21c, &size.to_le_bytes());
    }
    put(0x228, &(pc::COMMAND_LINE as u32).to_le_bytes());
    // Firmware's area below 1 MiB is no RAM, but it is there: kernels look around in it.
    let map = [
        (0..pc::LOW_MEMORY_END, RAM),
        (pc::TABLES..pc::MAILBOX, ACPI),
        (pc::MAILBOX..pc::RESIDENT_END, NVS),
        (1 << 20..shape.memory, RAM),
    ];
    put(0x1e8, &[map.len() as u8]);
    for (n, (range, kind)) in map.into_iter().enumerate() {
        let at = 0x2d0 + n * 20;
        put(at, &range.start.to_le_bytes());
        put(at + 8, &(range.end - range.start).to_le_bytes());
        put(at + 16, &kind.to_le_bytes());
    }
    out
}

/// Serves an access to a device in memory: what a read gives. Where there is no device, reads give zero.
pub fn mmio(vm: &Vm, address: u64, write: Option<u64>) -> u64 {
    match address & !0xfff {
        pc::IO_APIC => io_apic(vm, address & 0xfff, write),
        mailbox::BASE => mailbox::access(vm, address & 0xfff, write),
        _ => 0,
    }
}

fn io_apic(vm: &Vm, offset: u64, write: Option<u64>) -> u64 {
    let mut devices = vm.devices.lock();
    let Some(value) = write else { return devices.io_apic.read(offset).into() };
    let message = devices.io_apic.write(offset, value as u32);
    drop(devices);
    deliver(vm, message);
    0
}

fn deliver(vm: &Vm, message: Option<Message>) {
    // A guest may name a vCPU that it does not have: nobody gets that.
    if let Some(Message { target, vector }) = message.filter(|message| usize::from(message.target) < vm.vcpus.len()) {
        vm.interrupt(u32::from(target) << 8 | u32::from(vector), true);
    }
}

/// The console's interrupt output has changed.
pub fn console_interrupt(vm: &Vm, level: bool) {
    if level {
        let message = vm.devices.lock().io_apic.edge(pc::COM1_PIN as usize);
        deliver(vm, message);
    }
}

/// Serves a port access: what a read gives, and whether the vCPU is to rest.
pub fn port(vm: &Vm, vcpu: &Vcpu, port: u64, size: u64, write: Option<u64>) -> (u64, bool) {
    const CONSOLE: u64 = pc::COM1 as u64;
    const CONSOLE_END: u64 = CONSOLE + 7;
    let all_ones = u64::MAX >> (64 - 8 * size.clamp(1, 4));
    match (port as u16, write) {
        (pc::SLEEP_CONTROL, Some(value)) if value as u8 == pc::SLEEP_OFF => vm.finish(End::Off),
        (pc::RESET, Some(value)) if value as u8 == pc::RESET_VALUE => vm.finish(End::Reset),
        (pc::IDLE, None) => {
            vcpu.deadline.store(timer::now() + timer::ticks(REST_MS), Ordering::Release);
            return (0, true);
        }
        _ if (CONSOLE..=CONSOLE_END).contains(&port) && size == 1 => {
            return (console::access(vm, port - CONSOLE, write), false);
        }
        _ => {}
    }
    (all_ones, false)
}
