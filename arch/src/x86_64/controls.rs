//! A guest's VMCS as its vCPU starts (SDM volume 3, "Virtual Machine Control Structures"): what exits, and the state that
//! the TDX module gives a vCPU (its base specification, "Initial State of Guest VCPUs").

use super::exits::{CR0_SHADOWED, CR4_GUEST, CR4_MCE};
use super::inject::vector;
use super::msr::{self, PAT_RESET};
use super::vmx::{self, Controls, entry, exit, field, pin, primary, secondary};
use super::world;
use abi::FRAME_SIZE;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Once;

/// Secondary controls that have no use elsewhere: ENCLV exits; PCONFIG that is off does not exist for a guest.
const ENCLV: u32 = 1 << 28;
const ENCLV_EXIT_BITMAP: u32 = 0x2036;

const PIN: u32 = pin::EXTERNAL_INTERRUPT | pin::NMI | pin::VIRTUAL_NMIS | pin::PREEMPTION_TIMER;
const PRIMARY: u32 = primary::TSC_OFFSETTING
    | primary::HLT
    | primary::MWAIT
    | primary::RDPMC
    | primary::CR8_LOAD
    | primary::CR8_STORE
    | primary::UNCONDITIONAL_IO
    | primary::MSR_BITMAPS
    | primary::MONITOR
    | primary::SECONDARY;
const SECONDARY: u32 = secondary::EPT
    | secondary::RDTSCP
    | secondary::VPID
    | secondary::WBINVD
    | secondary::UNRESTRICTED_GUEST
    | secondary::INVPCID
    | secondary::ENCLS
    | ENCLV
    | secondary::CONCEAL_PT
    | secondary::XSAVES;
/// What the CPU does with a guest's APIC.
const APICV: u64 =
    (secondary::VIRTUAL_X2APIC | secondary::APIC_REGISTERS | secondary::VIRTUAL_INTERRUPT_DELIVERY) as u64;
const EXIT: u32 =
    exit::SAVE_DEBUG | exit::HOST_64BIT | exit::SAVE_PAT | exit::LOAD_PAT | exit::SAVE_EFER | exit::LOAD_EFER;
const ENTRY: u32 = entry::LOAD_DEBUG | entry::LOAD_PAT | entry::LOAD_EFER;
/// Exceptions that exit: #UD, which TDCALL is without SEAM; #MC, which is the machine's; #DB and #AC, which a guest can
/// make come again and again in their own delivery, for ever (CVE-2015-8104, CVE-2015-5307).
const EXCEPTIONS: u64 =
    1 << vector::INVALID_OPCODE | 1 << vector::MACHINE_CHECK | 1 << vector::DEBUG | 1 << vector::ALIGNMENT_CHECK;

/// CR0: PE, NE.
const CR0: u64 = 0x21;
/// EFER: SCE, LME, NXE.
const EFER: u64 = 0x901;
const DR7: u64 = 0x400;
const RFLAGS: u64 = 2;

/// Access rights (SDM "Segment-Register Access Rights"): flat 32-bit code and data, busy TSS, LDT, and no segment.
const CODE: u64 = 0xc09b;
const DATA: u64 = 0xc093;
const TASK: u64 = 0x8b;
const UNUSABLE: u64 = 1 << 16;
const FLAT: u64 = 0xffff_ffff;

/// One frame.
#[repr(C, align(4096))]
struct Bitmap([AtomicU64; FRAME_SIZE as usize / 8]);

/// The same for all guests: the second is for those whose APIC the CPU has. All accesses exit until they are filled.
static MSR_BITMAPS: [Bitmap; 2] =
    [const { Bitmap([const { AtomicU64::new(u64::MAX) }; FRAME_SIZE as usize / 8]) }; 2];
static FILLED: Once<()> = Once::new();

/// Where the bitmap is; Postern is mapped at its physical addresses.
fn msr_bitmap(apic: bool) -> u64 {
    FILLED.call_once(|| {
        for (bitmap, apic) in MSR_BITMAPS.iter().zip([false, true]) {
            for bit in msr::open_bits(&world::cpu().present, apic) {
                bitmap.0[bit / 64].fetch_and(!(1 << (bit % 64)), Ordering::Relaxed);
            }
        }
    });
    &raw const MSR_BITMAPS[usize::from(apic)] as u64
}

/// Fills the current VMCS for a vCPU that starts at `rip`; all but what [`super::vcpu::Vcpu`] writes at each load.
pub fn start(rip: u64) {
    controls();
    guest_state(rip);
}

/// The primary controls without windows.
pub fn primary() -> u32 {
    vmx::adjust(Controls::Primary, PRIMARY)
}

/// Gives the guest's APIC to the CPU, which keeps it in this page and has to have [`super::features::Feature::Apicv`]; or, without
/// one, takes it back. Returns the primary controls.
///
/// The combination is one that VM entry takes (SDM "VM-Execution Control Fields", checks of them): there is a TPR shadow, the
/// page is aligned, accesses to an APIC page are not virtualised, and external interrupts exit.
pub fn give_apic(page: Option<u64>) -> u32 {
    let primary = match page {
        Some(page) => {
            vmx::write(field::VIRTUAL_APIC_PAGE, page);
            // Not in use with virtual-interrupt delivery.
            vmx::write(field::TPR_THRESHOLD, 0);
            // No guest has level-triggered interrupts, whose ends would concern somebody.
            for bitmap in (field::EOI_EXIT_BITMAP_0..=field::EOI_EXIT_BITMAP_3).step_by(2) {
                vmx::write(bitmap, 0);
            }
            primary() & !(primary::CR8_LOAD | primary::CR8_STORE) | primary::TPR_SHADOW
        }
        None => primary(),
    };
    let on = if page.is_some() { APICV } else { 0 };
    vmx::modify(field::SECONDARY_CONTROLS, APICV, on);
    vmx::write(field::PRIMARY_CONTROLS, primary.into());
    vmx::write(field::MSR_BITMAP, msr_bitmap(page.is_some()));
    primary
}

fn controls() {
    let secondary = vmx::adjust(Controls::Secondary, SECONDARY);
    vmx::write(field::PIN_CONTROLS, vmx::adjust(Controls::Pin, PIN).into());
    vmx::write(field::PRIMARY_CONTROLS, primary().into());
    vmx::write(field::SECONDARY_CONTROLS, secondary.into());
    vmx::write(field::EXIT_CONTROLS, vmx::adjust(Controls::Exit, EXIT).into());
    vmx::write(field::ENTRY_CONTROLS, vmx::adjust(Controls::Entry, ENTRY).into());
    vmx::write(field::EXCEPTION_BITMAP, EXCEPTIONS);
    vmx::write(field::MSR_BITMAP, msr_bitmap(false));
    if secondary & secondary::XSAVES != 0 {
        vmx::write(field::XSS_EXIT_BITMAP, u64::MAX);
    }
    if secondary & secondary::ENCLS != 0 {
        vmx::write(field::ENCLS_EXIT_BITMAP, u64::MAX);
    }
    if secondary & ENCLV != 0 {
        vmx::write(ENCLV_EXIT_BITMAP, u64::MAX);
    }
    for zero in [
        field::PAGE_FAULT_MASK,
        field::PAGE_FAULT_MATCH,
        field::CR3_TARGET_COUNT,
        field::ENTRY_INTERRUPTION,
    ] {
        vmx::write(zero, 0);
    }
    vmx::write(field::LINK_POINTER, u64::MAX);
    vmx::write(field::CR0_MASK, CR0_SHADOWED);
    vmx::write(field::CR4_MASK, !CR4_GUEST);
}

fn guest_state(rip: u64) {
    vmx::write(field::CR0_SHADOW, CR0);
    vmx::write(field::CR4_SHADOW, CR4_MCE);
    vmx::write(field::GUEST_CR0, vmx::fixed_cr0(CR0));
    vmx::write(field::GUEST_CR4, vmx::fixed_cr4(CR4_MCE));
    vmx::write(field::GUEST_EFER, EFER);
    vmx::write(field::GUEST_PAT, PAT_RESET);
    vmx::write(field::GUEST_RIP, rip);
    vmx::write(field::GUEST_RFLAGS, RFLAGS);
    vmx::write(field::GUEST_DR7, DR7);
    // ES, CS, SS, DS, FS, GS, LDTR, TR.
    let segments = [
        (DATA, FLAT),
        (CODE, FLAT),
        (DATA, FLAT),
        (DATA, FLAT),
        (DATA, FLAT),
        (DATA, FLAT),
        (UNUSABLE, 0),
        (TASK, 0xffff),
    ];
    for (n, (rights, limit)) in (0..).zip(segments) {
        vmx::write(field::GUEST_ES_SELECTOR + 2 * n, 0);
        vmx::write(field::GUEST_ES_BASE + 2 * n, 0);
        vmx::write(field::GUEST_ES_LIMIT + 2 * n, limit);
        vmx::write(field::GUEST_ES_RIGHTS + 2 * n, rights);
    }
    vmx::write(field::GUEST_GDTR_LIMIT, 0xffff);
    vmx::write(field::GUEST_IDTR_LIMIT, 0xffff);
    for zero in [
        field::GUEST_CR3,
        field::GUEST_RSP,
        field::GUEST_GDTR_BASE,
        field::GUEST_IDTR_BASE,
        field::GUEST_DEBUGCTL,
        field::GUEST_INTERRUPTIBILITY,
        field::GUEST_ACTIVITY,
        field::GUEST_PENDING_DEBUG,
        field::GUEST_SYSENTER_CS,
        field::GUEST_SYSENTER_ESP,
        field::GUEST_SYSENTER_EIP,
    ] {
        vmx::write(zero, 0);
    }
}
