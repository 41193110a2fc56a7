//! What the boot parameters say of the machine, real or virtual (Linux `Documentation/arch/x86/zero-page.rst`).

use super::{acpi, uart};
use crate::list::List;
use crate::pc;
use core::ops::Range;
use loader::screen::{Layout, Order};

/// The machine.
#[derive(Default)]
pub struct Machine {
    /// RAM.
    pub memory: List<Range<u64>>,
    /// Memory not to be used.
    pub reserved: List<Range<u64>>,
    /// APIC identifiers of the CPUs, the first CPU's first.
    pub cpus: List<u64>,
    /// First ports of the 16550s, sorted in the order of COM1 and COM2.
    pub uarts: List<u64>,
    /// The initrd.
    pub initrd: Range<u64>,
    /// The kernel command line.
    pub arguments: &'static str,
    /// Address of the record that a boot through UEFI has left; 0 when there is none.
    pub record: u64,
    /// The screen that firmware has set up.
    pub screen: Option<Layout>,
    /// Mailbox through which other CPUs are woken; zero when they are started with INIT and SIPI.
    pub mailbox: u64,
    /// A device in memory for tests: the I/O APIC.
    pub distributor: u64,
}

const COM2: u16 = 0x2f8;
/// Longest command line that is kept.
const ARGUMENTS_MAX: usize = 2048;
static mut ARGUMENTS: [u8; ARGUMENTS_MAX] = [0; ARGUMENTS_MAX];

impl Machine {
    /// Reads the boot parameters.
    ///
    /// # Safety
    /// `parameters` points to them, and this is the first and only CPU.
    pub(super) unsafe fn parse(parameters: *const u8) -> Self {
        // SAFETY: the boot protocol promises a page; every offset is within it.
        let word = |at: usize| unsafe { parameters.add(at).cast::<u32>().read_unaligned() };
        // SAFETY: as above.
        let long = |at: usize| unsafe { parameters.add(at).cast::<u64>().read_unaligned() };
        let pair = |low: usize, high: usize| u64::from(word(high)) << 32 | u64::from(word(low));
        let mut machine = Self { distributor: pc::IO_APIC, ..Self::default() };
        let entries = word(0x1e8) as usize & 0xff;
        for entry in (0..entries.min(128)).map(|n| 0x2d0 + n * 20) {
            let (start, size, kind) = (long(entry), long(entry + 8), word(entry + 16));
            if kind == 1 {
                machine.memory.push(start..start.saturating_add(size));
            }
        }
        // Vectors and data of the firmware, and the page in which CPUs start.
        machine.reserved.push(0..0x1_0000);
        let initrd = pair(0x218, 0xc0);
        machine.initrd = initrd..initrd + pair(0x21c, 0xc4);
        machine.arguments = arguments(pair(0x228, 0xc8));
        machine.record = record(long(0x250));
        // A screen of firmware's (Linux `include/uapi/linux/screen_info.h`), in elements of 32 bits.
        if word(0xc) >> 24 == 0x70 && word(0x16) & 0xffff == 32 {
            let (start, size) = (pair(0x18, 0x3a), u64::from(word(0x1c)));
            let (shape, stride) = (word(0x12), (word(0x24) & 0xffff) / 4);
            let order = if word(0x24) >> 24 == 0 { Order::Rgb } else { Order::Bgr };
            machine.screen = Layout::new(start, size, [shape & 0xffff, shape >> 16], stride, order);
        }
        let madt = acpi::madt(long(0x70));
        machine.mailbox = madt.mailbox;
        let first = super::cpu::cpuid(1, 0).ebx >> 24;
        machine.cpus.push(first.into());
        madt.cpus.iter().filter(|id| **id != u64::from(first)).for_each(|id| machine.cpus.push(*id));
        for port in [pc::COM1, COM2].into_iter().filter(|port| uart::is_there(*port)) {
            machine.uarts.push(port.into());
        }
        machine
    }
}

/// What the first piece of setup data says of the record (boot.rst, "setup_data").
fn record(data: u64) -> u64 {
    if data == 0 {
        return 0;
    }
    // SAFETY: the boot protocol promises the address of the next piece, type, size, and as many bytes there.
    let [kind, record] = unsafe { [(data as *const u64).add(1).read(), (data as *const u64).add(2).read()] };
    if kind == u64::from(abi::handoff::MULTIBOOT_TAG) | 8 << 32 { record } else { 0 }
}

/// A copy of the zero-terminated text at `address`: what the boot loader wrote may be overwritten.
fn arguments(address: u64) -> &'static str {
    if address == 0 {
        return "";
    }
    // SAFETY: the boot protocol promises text there; nothing else refers to the copy.
    unsafe {
        let copy = &raw mut ARGUMENTS;
        let mut length = 0;
        while length < ARGUMENTS_MAX {
            let byte = (address as *const u8).add(length).read();
            if byte == 0 {
                break;
            }
            (*copy)[length] = byte;
            length += 1;
        }
        core::str::from_utf8(&(&(*copy))[..length]).unwrap_or("")
    }
}
