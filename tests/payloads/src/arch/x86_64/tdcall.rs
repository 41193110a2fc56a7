//! TDCALL, for guests (Intel TDX Module ABI; Guest-Host-Communication Interface).

use super::cpu;
use abi::tdx::register::{R8, R9, R10, R11, RAX, RCX, RDX};
use abi::tdx::{leaf, vmcall as sub};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// R10 to R15, in the order of the bits of RCX: what the sub-functions use, and so all that is opened to the host.
const OPEN: u64 = 0xfc00;

static WIDTH: AtomicU64 = AtomicU64::new(0);

/// Whether this is a TD: CPUID leaf 0x21 says `IntelTDX    `.
pub fn present() -> bool {
    let leaf = cpu::cpuid(0x21, 0);
    (leaf.ebx, leaf.edx, leaf.ecx) == (0x6574_6e49, 0x5844_546c, 0x2020_2020)
}

/// TDCALL with RCX, RDX, R8 and R9: all registers up to R11, of which RBX, RSP, RBP, RSI and RDI are not looked at.
// All of a program's TDCALLs are in one place, as they are in Linux.
#[unsafe(link_section = ".text.tdcall")]
#[inline(never)]
pub fn call(leaf: u64, rcx: u64, rdx: u64, r8: u64, r9: u64) -> [u64; 12] {
    let mut output = [0; 12];
    // SAFETY: changes memory only as the leaf says, whose operands the caller gives.
    unsafe {
        asm!(
            ".byte 0x66, 0x0f, 0x01, 0xcc",
            inlateout("rax") leaf => output[RAX],
            inlateout("rcx") rcx => output[RCX],
            inlateout("rdx") rdx => output[RDX],
            inlateout("r8") r8 => output[R8],
            inlateout("r9") r9 => output[R9],
            inlateout("r10") 0u64 => output[R10],
            inlateout("r11") 0u64 => output[R11],
            options(nostack),
        );
    }
    output
}

/// TDG.VP.VMCALL with R11 to R15: R10 and R11 of the answer.
#[unsafe(link_section = ".text.tdcall")]
#[inline(never)]
fn vmcall_with(function: u64, r12: u64, r13: u64, r14: u64, r15: u64) -> (u64, u64) {
    let (status, r10, r11): (u64, u64, u64);
    // SAFETY: as above.
    unsafe {
        asm!(
            ".byte 0x66, 0x0f, 0x01, 0xcc",
            inlateout("rax") leaf::VP_VMCALL => status,
            in("rcx") OPEN,
            inlateout("r10") 0u64 => r10,
            inlateout("r11") function => r11,
            inlateout("r12") r12 => _,
            inlateout("r13") r13 => _,
            inlateout("r14") r14 => _,
            inlateout("r15") r15 => _,
            options(nostack),
        );
    }
    assert!(status == 0, "a TDG.VP.VMCALL is refused as such");
    (r10, r11)
}

/// TDG.VP.VMCALL with R11 to R15: R10 and R11 of the answer.
pub fn vmcall(function: u64, [r12, r13, r14, r15]: [u64; 4]) -> [u64; 2] {
    vmcall_with(function, r12, r13, r14, r15).into()
}

/// Bits of a guest physical address, the shared one included.
pub fn width() -> u64 {
    match WIDTH.load(Ordering::Relaxed) {
        0 => {
            let width = call(leaf::VP_INFO, 0, 0, 0, 0)[RCX] & 0x3f;
            WIDTH.store(width, Ordering::Relaxed);
            width
        }
        width => width,
    }
}

/// The bit that selects the shared half.
pub fn shared_bit() -> u64 {
    1 << (width() - 1)
}

/// A virtualization exception.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExceptionInfo {
    /// Exit reason.
    pub reason: u64,
    /// Exit qualification.
    pub qualification: u64,
    /// Guest physical address.
    pub address: u64,
}

/// TDG.VP.VEINFO.GET; all zero when there is none.
pub fn exception_info() -> ExceptionInfo {
    let output = call(leaf::VP_VEINFO_GET, 0, 0, 0, 0);
    if output[RAX] != 0 {
        return ExceptionInfo::default();
    }
    ExceptionInfo { reason: output[RCX] & 0xffff_ffff, qualification: output[RDX], address: output[R9] }
}

/// TDG.MEM.PAGE.ACCEPT: the completion status, which is all that the leaf changes. Level 0 is 4 KiB, level 1 is 2 MiB.
#[unsafe(link_section = ".text.tdcall")]
#[inline(never)]
pub fn accept(address: u64, level: u64) -> u64 {
    let status;
    // SAFETY: as above: memory becomes the caller's.
    unsafe {
        asm!(
            ".byte 0x66, 0x0f, 0x01, 0xcc",
            inlateout("rax") leaf::MEM_PAGE_ACCEPT => status,
            in("rcx") address | level,
            options(nostack),
        );
    }
    status
}

/// MapGPA, once: status and R11.
pub fn map_gpa_once(start: u64, bytes: u64) -> (u64, u64) {
    vmcall_with(sub::MAP_GPA, start, bytes, 0, 0)
}

/// MapGPA until the whole range is done; it is shared if `start` has the shared bit.
///
/// # Errors
/// The status that was neither success nor RETRY, or `u64::MAX` when there was no progress.
pub fn map_gpa(start: u64, bytes: u64) -> Result<(), u64> {
    let (mut at, end, mut stuck) = (start, start + bytes, 0);
    loop {
        let (status, next) = map_gpa_once(at, end - at);
        match status {
            0 => return Ok(()),
            sub::RETRY if (at..end).contains(&next) => {
                stuck = if next == at { stuck + 1 } else { 0 };
                at = next;
            }
            sub::RETRY => return Err(u64::MAX),
            status => return Err(status),
        }
        if stuck > 3 {
            return Err(u64::MAX);
        }
    }
}

/// Closes pages to the host: MapGPA, then each page is accepted.
///
/// # Errors
/// The status of the first call that failed.
pub fn make_private(start: u64, bytes: u64) -> Result<(), u64> {
    const BLOCK: u64 = 2 << 20;
    map_gpa(start, bytes)?;
    let (mut at, end) = (start, start + bytes);
    while at < end {
        if at % BLOCK == 0 && at + BLOCK <= end && accept(at, 1) == 0 {
            at += BLOCK;
            continue;
        }
        match accept(at, 0) {
            0 => at += 0x1000,
            status => return Err(status),
        }
    }
    Ok(())
}

/// Asks the host for a device register; `address` has no shared bit.
pub fn mmio_read(address: u64, size: u64) -> u64 {
    let [status, value] = vmcall(sub::MMIO, [size, 0, address | shared_bit(), 0]);
    assert!(status == 0, "the read of {address:#x} answers {status:#x}");
    value
}

/// Has the host write a device register; `address` has no shared bit.
pub fn mmio_write(address: u64, size: u64, value: u64) {
    let [status, ..] = vmcall(sub::MMIO, [size, 1, address | shared_bit(), value]);
    assert!(status == 0, "the write to {address:#x} answers {status:#x}");
}
