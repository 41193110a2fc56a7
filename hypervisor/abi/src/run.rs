//! The run page: 4 KiB of host memory through which a vCPU and the host talk, as 64-bit words at the indices below.
//!
//! Postern reads each word at most once for each [`crate::host::VCPU_RUN`], and writes only what the exit reason needs:
//! no other register of a protected guest ever appears here.

/// Set by the host before a run that follows [`exit::MMIO_READ`] or [`exit::IO_READ`]: the value read.
pub const MMIO_VALUE: usize = 0;
/// Guest physical address of an MMIO access or memory fault, without the shared bit.
pub const ADDRESS: usize = 1;
/// Bytes of an MMIO or port access: 1, 2, 4 or 8.
pub const SIZE: usize = 2;
/// Value of an MMIO or port write.
pub const VALUE: usize = 3;
/// [`exit::MEMORY_FAULT`]: 1 when the page is wanted as shared memory, 0 as private memory.
pub const SHARED: usize = 4;
/// [`exit::WAIT`]: value of the host's CNTVCT or TSC at which the vCPU wants to run again; `u64::MAX` for never.
pub const DEADLINE: usize = 5;
/// [`exit::WAKE`]: bit n means that vCPU n has something to do.
pub const VCPU_MASK: usize = 6;
/// [`exit::CPU_ON`]: index of the vCPU that the guest has started.
pub const VCPU: usize = 7;
/// [`exit::FAILED`]: why, in [`failure`] codes.
pub const FAILURE: usize = 8;
/// [`exit::HOST_CALL`]: the immediate.
pub const CALL_IMMEDIATE: usize = 9;
/// [`exit::HOST_CALL`]: 31 registers; the host's answers are taken from here at the next run.
pub const CALL_REGISTERS: usize = 16;

/// Exit reasons, in x1 of [`crate::host::VCPU_RUN`].
pub mod exit {
    /// A physical interrupt is pending for the host, or the vCPU was kicked.
    pub const INTERRUPT: u64 = 0;
    /// The guest waits for an interrupt (`WFI`, `HLT`).
    pub const WAIT: u64 = 1;
    /// The guest reads a device register; the answer goes into [`super::MMIO_VALUE`].
    pub const MMIO_READ: u64 = 2;
    /// The guest writes a device register.
    pub const MMIO_WRITE: u64 = 3;
    /// The guest touched memory that the host has not given yet.
    pub const MEMORY_FAULT: u64 = 4;
    /// The guest switched itself off; no vCPU will run again.
    pub const SYSTEM_OFF: u64 = 5;
    /// The guest asked for a reset; no vCPU will run again.
    pub const SYSTEM_RESET: u64 = 6;
    /// The guest started another vCPU, which the host should now run.
    pub const CPU_ON: u64 = 7;
    /// This vCPU is off until another one starts it.
    pub const CPU_OFF: u64 = 8;
    /// The guest sent interrupts to other vCPUs, which the host should run or kick.
    pub const WAKE: u64 = 9;
    /// A realm's RSI_HOST_CALL.
    pub const HOST_CALL: u64 = 10;
    /// The guest did what cannot be resolved; it will not run again.
    pub const FAILED: u64 = 11;
    /// A conversion needs a table page and the VM's metadata is used up: donate some and run again.
    pub const NEED_META: u64 = 12;
    /// A conversion needs a record or table page of Postern's pool, which is used up: top it up and run again.
    pub const NEED_POOL: u64 = 13;
    /// The guest reads an I/O port, whose number is in [`super::ADDRESS`]; the answer goes into [`super::MMIO_VALUE`].
    pub const IO_READ: u64 = 14;
    /// The guest writes an I/O port.
    pub const IO_WRITE: u64 = 15;
}

/// Why a guest failed.
pub mod failure {
    /// It executed or stored through an address that nothing can back.
    pub const UNRESOLVABLE_FAULT: u64 = 1;
    /// It touched a frame that failed in hardware.
    pub const POISON: u64 = 2;
    /// The machine raised an SError while it ran.
    pub const MACHINE_ERROR: u64 = 4;
    /// It left the AArch64 state.
    pub const ILLEGAL_STATE: u64 = 3;
    /// It said so itself: TDX's ReportFatalError.
    pub const FATAL: u64 = 5;
    /// A vCPU shut down: an x86 triple fault.
    pub const SHUTDOWN: u64 = 6;
    /// The host destroyed the VM while it ran.
    pub const DESTROYED: u64 = 7;
}
