//! The host's VMCS: controls, and the two states that the host starts in on a CPU.

use super::vectors::{Gprs, number};
use super::vmx::{self, Controls, entry, exit, field, pin, primary, secondary};
use super::{host_policy, host_ports, power, tlb};
use core::arch::asm;
use core::cell::UnsafeCell;
use guestmem::Space;
use loader::zero_page;

/// CR0 bits of the host that are Postern's: NE, which VMX wants set; NW and CD, which a VM exit does not change and which
/// would take the caches from Postern too. The host sees in the read shadow what it has written.
pub const CR0_MASK: u64 = 1 << 5 | 0b11 << 29;
/// CR0: protection, monitor coprocessor, extension type, numeric error, paging.
const CR0_KERNEL: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 31;
/// CR0 after INIT: extension type; and CD and NW, in the read shadow only.
const CR0_INIT: u64 = 1 << 4;
const CR0_INIT_SHADOW: u64 = 0b11 << 29;
/// CR4.PAE.
const CR4_KERNEL: u64 = 1 << 5;
/// EFER: long mode enabled and active.
const EFER_KERNEL: u64 = 1 << 8 | 1 << 10;
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
const DR6_RESET: u64 = 0xffff_0ff0;
const DR7_RESET: u64 = 0x400;
/// The bit of RFLAGS that is always one.
const RFLAGS_RESET: u64 = 1 << 1;

/// #DB and #AC: an endless chain of them in their own delivery would keep the CPU from taking NMIs (SDM volume 3, "Exception
/// Bitmap"; CVE-2015-5307, CVE-2015-8104).
const EXCEPTIONS: u64 = 1 << 1 | 1 << 17;

#[repr(C, align(4096))]
struct MsrBitmap(UnsafeCell<[u64; 512]>);

// SAFETY: written by the boot CPU before the host runs anywhere; after that only hardware reads it.
unsafe impl Sync for MsrBitmap {}

static MSR_BITMAP: MsrBitmap = MsrBitmap(UnsafeCell::new([0; 512]));

/// Two frames, one after the other.
#[repr(C, align(4096))]
struct IoBitmaps(UnsafeCell<[u64; 1024]>);

// SAFETY: as above.
unsafe impl Sync for IoBitmaps {}

static IO_BITMAPS: IoBitmaps = IoBitmaps(UnsafeCell::new([0; 1024]));

/// Fills the bitmaps: once, on the boot CPU, before any host VMCS is written.
pub fn init() {
    // SAFETY: the one CPU that runs here; no VMCS refers to them yet.
    let (msrs, ports) = unsafe { (&mut *MSR_BITMAP.0.get(), &mut *IO_BITMAPS.0.get()) };
    msrs.iter_mut().zip(host_policy::bitmap()).for_each(|(word, bits)| *word = bits);
    ports.iter_mut().zip(host_ports::bitmap(power::acpi())).for_each(|(word, bits)| *word = bits);
}

/// Rights of a segment (SDM volume 3, "Guest Register State").
mod rights {
    pub const CODE64: u64 = 0xa09b;
    pub const DATA: u64 = 0xc093;
    pub const CODE16: u64 = 0x9b;
    pub const DATA16: u64 = 0x93;
    pub const LDT: u64 = 0x82;
    pub const TSS: u64 = 0x8b;
    pub const UNUSABLE: u64 = 1 << 16;
}

#[derive(Clone, Copy)]
struct Segment {
    selector: u64,
    base: u64,
    limit: u64,
    rights: u64,
}

/// Every field of the current VMCS but the guest's state: what a region holds in its beginning is unknown.
fn write_controls() {
    vmx::write_host_state();
    // The host takes its own interrupts; NMIs are how Postern's CPUs call each other, so they exit.
    vmx::write(field::PIN_CONTROLS, u64::from(vmx::adjust(Controls::Pin, pin::NMI | pin::VIRTUAL_NMIS)));
    let wanted = primary::MSR_BITMAPS | primary::IO_BITMAPS | primary::SECONDARY;
    vmx::write(field::PRIMARY_CONTROLS, u64::from(vmx::adjust(Controls::Primary, wanted)));
    // What the CPU has and CPUID shows, but does not exist in non-root operation unless it is enabled.
    let instructions = secondary::RDTSCP | secondary::INVPCID | secondary::XSAVES | secondary::USER_WAIT;
    let wanted = instructions | secondary::EPT | secondary::VPID | secondary::UNRESTRICTED_GUEST;
    vmx::write(field::SECONDARY_CONTROLS, u64::from(vmx::adjust(Controls::Secondary, wanted)));
    let wanted =
        exit::SAVE_DEBUG | exit::HOST_64BIT | exit::SAVE_PAT | exit::LOAD_PAT | exit::SAVE_EFER | exit::LOAD_EFER;
    vmx::write(field::EXIT_CONTROLS, u64::from(vmx::adjust(Controls::Exit, wanted)));
    vmx::write(field::VPID, u64::from(tlb::HOST_VPID));
    vmx::write(field::EPTP, tlb::eptp(Space::Host));
    vmx::write(field::MSR_BITMAP, MSR_BITMAP.0.get() as u64);
    let ports = IO_BITMAPS.0.get() as u64;
    vmx::write(field::IO_BITMAP_A, ports);
    vmx::write(field::IO_BITMAP_B, ports + abi::FRAME_SIZE);
    vmx::write(field::EXCEPTION_BITMAP, EXCEPTIONS);
    vmx::write(field::LINK_POINTER, u64::MAX);
    let cr4 = !host_policy::CR4_ALLOWED;
    for (field, value) in [(field::CR0_MASK, CR0_MASK), (field::CR4_MASK, cr4), (field::CR4_SHADOW, 0)] {
        vmx::write(field, value);
    }
    let zero = [
        field::PAGE_FAULT_MASK,
        field::PAGE_FAULT_MATCH,
        field::CR3_TARGET_COUNT,
        field::ENTRY_INTERRUPTION,
        field::ENTRY_ERROR_CODE,
        field::ENTRY_INSTRUCTION_LENGTH,
    ];
    zero.into_iter().for_each(|field| vmx::write(field, 0));
    if vmx::adjust(Controls::Secondary, secondary::XSAVES) & secondary::XSAVES != 0 {
        vmx::write(field::XSS_EXIT_BITMAP, 0);
    }
}

/// The guest's state that both starts have in common: nothing pending, nothing blocked, descriptor tables empty.
fn write_common_state(entry_controls: u32) {
    let wanted = entry::LOAD_DEBUG | entry::LOAD_PAT | entry::LOAD_EFER | entry_controls;
    vmx::write(field::ENTRY_CONTROLS, u64::from(vmx::adjust(Controls::Entry, wanted)));
    let zero = [
        field::GUEST_INTERRUPTIBILITY,
        field::GUEST_ACTIVITY,
        field::GUEST_DEBUGCTL,
        field::GUEST_PENDING_DEBUG,
        field::GUEST_SYSENTER_CS,
        field::GUEST_SYSENTER_ESP,
        field::GUEST_SYSENTER_EIP,
        field::GUEST_RSP,
        field::GUEST_GDTR_BASE,
        field::GUEST_IDTR_BASE,
    ];
    zero.into_iter().for_each(|field| vmx::write(field, 0));
    for entry in 0..4 {
        vmx::write(field::GUEST_PDPTE_0 + entry * 2, 0);
    }
    vmx::write(field::GUEST_PAT, PAT_RESET);
    vmx::write(field::GUEST_DR7, DR7_RESET);
    vmx::write(field::GUEST_RFLAGS, RFLAGS_RESET);
    // SAFETY: with DR7 as it is after a VM exit none of these breaks anything; CR2 is Postern's only for a crash record.
    unsafe {
        asm!(
            "mov dr0, {0}", "mov dr1, {0}", "mov dr2, {0}", "mov dr3, {0}", "mov cr2, {0}", "mov dr6, {1}",
            in(reg) 0u64, in(reg) DR6_RESET, options(nostack, preserves_flags)
        );
    }
}

/// In the order of the fields: ES, CS, SS, DS, FS, GS, LDTR, TR.
fn write_segments(segments: [Segment; 8]) {
    for (number, segment) in segments.into_iter().enumerate() {
        let step = number as u32 * 2;
        vmx::write(field::GUEST_ES_SELECTOR + step, segment.selector);
        vmx::write(field::GUEST_ES_BASE + step, segment.base);
        vmx::write(field::GUEST_ES_LIMIT + step, segment.limit);
        vmx::write(field::GUEST_ES_RIGHTS + step, segment.rights);
    }
}

fn write_control_registers(cr0: u64, shadow: u64, cr3: u64, cr4: u64, efer: u64) {
    vmx::write(field::GUEST_CR0, vmx::fixed_cr0(cr0));
    vmx::write(field::CR0_SHADOW, shadow);
    vmx::write(field::GUEST_CR3, cr3);
    vmx::write(field::GUEST_CR4, vmx::fixed_cr4(cr4));
    vmx::write(field::GUEST_EFER, efer);
}

/// The start of a kernel on the boot CPU: 64-bit mode, as Linux's boot protocol wants it (`Documentation/arch/x86/boot.rst`,
/// "64-bit Boot Protocol"), with what [`zero_page`] has put at `argument`.
pub fn start_kernel(kernel: u64, argument: u64) -> Gprs {
    write_controls();
    write_common_state(entry::IA32E_GUEST);
    write_control_registers(CR0_KERNEL, CR0_KERNEL, argument + zero_page::PAGE_TABLE, CR4_KERNEL, EFER_KERNEL);
    let flat = |selector, rights| Segment { selector, base: 0, limit: 0xffff_ffff, rights };
    let data = flat(0x18, rights::DATA);
    let none = Segment { selector: 0, base: 0, limit: 0, rights: rights::UNUSABLE };
    let tss = Segment { limit: 0x67, rights: rights::TSS, ..none };
    write_segments([data, flat(0x10, rights::CODE64), data, data, data, data, none, tss]);
    vmx::write(field::GUEST_GDTR_BASE, argument + zero_page::GDT);
    vmx::write(field::GUEST_GDTR_LIMIT, zero_page::GDT_SIZE - 1);
    vmx::write(field::GUEST_IDTR_LIMIT, 0);
    vmx::write(field::GUEST_RIP, kernel);
    let mut gprs = Gprs([0; 16]);
    gprs.0[number::RSI] = argument;
    gprs
}

/// The state after INIT and a start-up IPI with `page`: real mode at that page (SDM volume 3, "Processor State After Reset",
/// "MP Initialization Protocol Algorithm").
pub fn start_real_mode(page: u8) -> Gprs {
    write_controls();
    write_common_state(0);
    write_control_registers(CR0_INIT, CR0_INIT_SHADOW, 0, 0, 0);
    let data = Segment { selector: 0, base: 0, limit: 0xffff, rights: rights::DATA16 };
    let page = u64::from(page);
    let code = Segment { selector: page << 8, base: page << 12, limit: 0xffff, rights: rights::CODE16 };
    let ldt = Segment { rights: rights::LDT, ..data };
    let tss = Segment { rights: rights::TSS, ..data };
    write_segments([data, code, data, data, data, data, ldt, tss]);
    vmx::write(field::GUEST_GDTR_LIMIT, 0xffff);
    vmx::write(field::GUEST_IDTR_LIMIT, 0xffff);
    vmx::write(field::GUEST_RIP, 0);
    // What this CPU remembers of the host's linear addresses, an INIT would have made it forget.
    vmx::invvpid(tlb::HOST_VPID);
    let mut gprs = Gprs([0; 16]);
    gprs.0[number::RDX] = u64::from(core::arch::x86_64::__cpuid(1).eax);
    gprs
}
