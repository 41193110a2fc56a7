//! GICv3 (Arm IHI0069): group 1 interrupts through the system-register CPU interface.

use super::cpu;
pub use super::device::{read32, read64, write32, write64};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// Acknowledged interrupts from here on are not interrupts (IHI0069 section 2.2.1).
pub const SPURIOUS: u32 = 1020;
/// The software-generated interrupt that wakes other CPUs.
pub const SGI_WAKE: u32 = 1;

static DISTRIBUTOR: AtomicU64 = AtomicU64::new(0);
static REDISTRIBUTORS: AtomicU64 = AtomicU64::new(0);

/// Distributor register offsets (IHI0069 section 12.8).
pub mod gicd {
    /// Control.
    pub const CTLR: u64 = 0;
    /// Group of each interrupt, one bit each.
    pub const IGROUPR: u64 = 0x80;
    /// Set-enable.
    pub const ISENABLER: u64 = 0x100;
    /// Priorities, one byte each.
    pub const IPRIORITYR: u64 = 0x400;
    /// Route of each shared interrupt, eight bytes each.
    pub const IROUTER: u64 = 0x6000;
}

/// Redistributor register offsets (IHI0069 section 12.10); the SGI frame is 64 KiB further on.
pub mod gicr {
    /// Identification, affinity in the upper half.
    pub const TYPER: u64 = 0x8;
    /// Power management.
    pub const WAKER: u64 = 0x14;
    /// LPI configuration table.
    pub const PROPBASER: u64 = 0x70;
    /// LPI pending table.
    pub const PENDBASER: u64 = 0x78;
    /// The second frame, with the registers of the distributor for private interrupts.
    pub const SGI_FRAME: u64 = 0x1_0000;
    /// Bytes of the two frames of one CPU.
    pub const STRIDE: u64 = 0x2_0000;
}

/// Address of the distributor.
pub fn distributor() -> u64 {
    DISTRIBUTOR.load(Ordering::Relaxed)
}

/// Address of the calling CPU's redistributor, found by affinity.
pub fn redistributor() -> u64 {
    let affinity = cpu::affinity();
    let wanted = affinity & 0xff_ffff | affinity >> 32 << 24;
    let mut frame = REDISTRIBUTORS.load(Ordering::Relaxed);
    loop {
        let kind = read64(frame + gicr::TYPER);
        if kind >> 32 == wanted {
            return frame;
        }
        assert!(kind & 1 << 4 == 0, "no redistributor has affinity {wanted:#x}");
        frame += gicr::STRIDE;
    }
}

/// Switches the distributor on. Once, before any [`init_cpu`].
pub fn init(distributor: u64, redistributors: u64) {
    DISTRIBUTOR.store(distributor, Ordering::Relaxed);
    REDISTRIBUTORS.store(redistributors, Ordering::Relaxed);
    init_distributor();
}

/// Affinity routing and group 1.
pub fn init_distributor() {
    write32(distributor() + gicd::CTLR, 1 << 4 | 1 << 1);
}

/// Readies the calling CPU: its redistributor, and SGIs and the timer's PPI enabled at one priority.
pub fn init_cpu() {
    let frame = redistributor();
    let waker = read32(frame + gicr::WAKER);
    write32(frame + gicr::WAKER, waker & !(1 << 1));
    while read32(frame + gicr::WAKER) & 1 << 2 != 0 {
        core::hint::spin_loop();
    }
    let private = frame + gicr::SGI_FRAME;
    write32(private + gicd::IGROUPR, u32::MAX);
    for word in 0..8 {
        write32(private + gicd::IPRIORITYR + word * 4, 0xa0a0_a0a0);
    }
    write32(private + gicd::ISENABLER, 0xffff | 1 << super::timer::INTID);
    // SAFETY: CPU interface of this program's own; interrupts are masked or the vectors handle them.
    unsafe {
        asm!(
            "mrs {t}, icc_sre_el1", "orr {t}, {t}, #1", "msr icc_sre_el1, {t}", "isb",
            "msr icc_pmr_el1, {mask}", "msr icc_bpr1_el1, xzr", "msr icc_ctlr_el1, xzr",
            "msr icc_igrpen1_el1, {on}", "isb",
            t = out(reg) _, mask = in(reg) 0xf0u64, on = in(reg) 1u64, options(nostack)
        )
    };
}

/// Enables shared interrupt `intid` and routes it to the calling CPU.
pub fn enable_spi(intid: u32) {
    let base = distributor();
    let (word, bit) = (u64::from(intid / 32) * 4, 1 << (intid % 32));
    write32(base + gicd::IGROUPR + word, read32(base + gicd::IGROUPR + word) | bit);
    let priority = base + gicd::IPRIORITYR + u64::from(intid & !3);
    write32(priority, read32(priority) & !(0xff << (intid % 4 * 8)) | 0xa0 << (intid % 4 * 8));
    write64(base + gicd::IROUTER + u64::from(intid) * 8, cpu::affinity());
    write32(base + gicd::ISENABLER + word, bit);
}

/// Takes the highest-priority pending interrupt, or answers [`SPURIOUS`] or more.
pub fn acknowledge() -> u32 {
    let intid: u64;
    // SAFETY: reading IAR1 acknowledges; the caller ends the interrupt.
    unsafe { asm!("mrs {0}, icc_iar1_el1", "dsb sy", out(reg) intid, options(nostack)) };
    intid as u32
}

/// Ends an acknowledged interrupt.
pub fn end(intid: u32) {
    // SAFETY: the counterpart of `acknowledge`.
    unsafe { asm!("msr icc_eoir1_el1, {0}", "isb", in(reg) u64::from(intid), options(nostack)) };
}

/// Takes and ends one interrupt; whether there was one.
pub fn acknowledge_and_end() -> bool {
    let intid = acknowledge();
    if intid < SPURIOUS {
        end(intid);
    }
    intid < SPURIOUS
}

/// Sends SGI `intid` to the CPU with this MPIDR affinity.
pub fn send_sgi(intid: u32, affinity: u64) {
    let (aff0, aff1, aff2, aff3) =
        (affinity & 0xff, affinity >> 8 & 0xff, affinity >> 16 & 0xff, affinity >> 32 & 0xff);
    let value = 1 << (aff0 & 15) | aff1 << 16 | u64::from(intid) << 24 | aff2 << 32 | (aff0 >> 4) << 44 | aff3 << 48;
    send_raw_sgi(value);
}

/// Writes ICC_SGI1R_EL1 as it is.
pub fn send_raw_sgi(value: u64) {
    // SAFETY: sends an interrupt, which all CPUs of the program handle or poll for.
    unsafe { asm!("dsb ishst", "msr icc_sgi1r_el1, {0}", "isb", in(reg) value, options(nostack)) };
}
