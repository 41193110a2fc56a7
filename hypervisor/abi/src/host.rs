//! Calls that the host makes to Postern (HVC #0 on arm64, VMCALL on x86-64).
//!
//! On arm64 the call number goes in x0, arguments in x1..x6; the status comes back in x0 and results in x1..x3.
//! On x86-64 the number goes in RAX, arguments in RDI, RSI, RDX, RCX, R8, R9; the status comes back in RAX and results
//! in RDI, RSI, RDX. Only the kernel may call: privilege level 0, in 64-bit mode.
//! A call that answers [`MORE`] has made progress and is to be repeated with the same arguments until it answers
//! something else: no single call runs longer than the published bound.

/// First call number: SMC64 fast calls of the vendor-specific hypervisor service (SMCCC section 6.2), functions 0x5000...
pub const BASE: u64 = 0xC600_5000;

/// `() -> (version: major << 16 | minor, features)`.
pub const VERSION: u64 = BASE;
/// `(pa, frames) -> frames taken`: gives up to [`FRAMES_PER_CALL`] frames to Postern's own pool of table and record pages.
pub const POOL_TOPUP: u64 = BASE + 1;
/// `(config_pa, meta_pa, meta_frames) -> handle`: creates a VM as [`VmConfig`] at `config_pa` says. The metadata frames
/// are contiguous, `meta_pa` is a multiple of 8 KiB and `meta_frames` at least [`META_FRAMES_MIN`].
pub const VM_CREATE: u64 = BASE + 2;
/// `(handle, pa, frames) -> frames taken`: gives up to [`FRAMES_PER_CALL`] frames for the VM's tables and vCPU state; they
/// come back when the VM is reclaimed.
pub const VM_DONATE_META: u64 = BASE + 3;
/// `(handle, pa, ipa, frames) -> frames given`: gives memory, which arrives zeroed. `frames` is 512, with `pa` and `ipa`
/// multiples of 2 MiB, or 1 to [`PAGES_PER_DONATION`]: then the ones up to the first that is refused are given, or up to the
/// end of their 2 MiB block. Answers [`MORE`] while a block is being wiped.
pub const VM_DONATE: u64 = BASE + 4;
/// `(handle, pa, ipa)`: gives one frame with its content, which is measured; only before [`VM_SEAL`].
/// Answers [`MORE`] until the frame has been hashed.
pub const VM_LOAD: u64 = BASE + 5;
/// `(handle, entry_ipa, argument)`: closes the measurement; vCPU 0, which exists by then, will start at `entry_ipa` with
/// x0 = `argument`. [`dialect::TDX`]: all vCPUs start there, as after a TD's reset, with RCX = R8 = `argument`.
pub const VM_SEAL: u64 = BASE + 6;
/// `(handle, index, run_pa)`, before [`VM_SEAL`]: creates vCPU `index` out of the VM's metadata, with the run page at `run_pa`, a host frame
/// that stays the host's but cannot be given away while the vCPU exists.
pub const VCPU_CREATE: u64 = BASE + 7;
/// `(handle, index) -> exit reason`: runs the vCPU on this CPU until something needs the host; see [`crate::run`].
pub const VCPU_RUN: u64 = BASE + 8;
/// `(handle, intid, level)`: sets the level of a device interrupt; `-> vCPU index it is routed to`. On arm64 `intid` is an
/// SPI; on x86-64 it is a vCPU's index << 8 | a vector of 32 or more, and only the level 1 means something: a message.
pub const VM_IRQ: u64 = BASE + 9;
/// `(handle, index) -> 1 when the vCPU is running`: its present or next run ends at once. The caller makes the CPU that
/// runs it take an interrupt.
pub const VCPU_KICK: u64 = BASE + 10;
/// `(handle)`: the VM will never run again.
pub const VM_DESTROY: u64 = BASE + 11;
/// `(handle)`: wipes and gives back what a destroyed VM owned. Answers [`MORE`] until all of it is back, then [`OK`],
/// after which the handle is gone.
pub const VM_RECLAIM: u64 = BASE + 12;
/// `(handle, out_pa)`: writes a [`VmInfo`] into a host frame.
pub const VM_INFO: u64 = BASE + 13;
/// `(pa) -> state, pins`: what Postern's frame database says of a frame; states as in [`frame`].
pub const FRAME_INFO: u64 = BASE + 14;
/// `(pa)`: holds a frame that a guest shares, so that it cannot change hands meanwhile.
pub const PIN: u64 = BASE + 15;
/// `(pa)`: undoes one [`PIN`].
pub const UNPIN: u64 = BASE + 16;
/// `(out_pa)`: writes the counters, 64-bit each, in the order of [`counter`], into a host frame.
pub const COUNTERS: u64 = BASE + 17;
/// `(out_pa, position) -> next position, bytes`: copies log text from `position` on into a host frame.
pub const LOG_READ: u64 = BASE + 18;
/// `(cursor) -> cursor, violations`: checks the frame database against all tables, a part at a time: repeat with the
/// returned cursor while the status is [`MORE`]. Only meaningful while nothing else is being converted.
pub const AUDIT: u64 = BASE + 19;
/// `(length, bytes...)`: writes up to 40 bytes, packed in x2..x6, to the log console. [`MORE`]: they are taken, but wait for
/// the UART, and a call with length 0 goes on; [`BUSY`]: too many wait already.
pub const CONSOLE_WRITE: u64 = BASE + 20;
/// Not a call: crashes Postern, in a build and with a bundle made for testing that; [`NOT_SUPPORTED`] everywhere else.
pub const CRASH_TEST: u64 = BASE + 0xff;
/// One past the last call number.
pub const END: u64 = BASE + 21;

/// Version answered by [`VERSION`]: major 0 (may change), minor 1.
pub const VERSION_NUMBER: u64 = 1;

/// Done.
pub const OK: i64 = 0;
/// Progress was made; repeat the call.
pub const MORE: i64 = 1;
/// No such call.
pub const NOT_SUPPORTED: i64 = -1;
/// An argument is malformed: unaligned, zero, too large, or an unknown option.
pub const INVALID: i64 = -2;
/// The physical address is not RAM, or the guest address is outside the VM's RAM.
pub const ADDRESS: i64 = -3;
/// The frame is not the caller's to use in this way.
pub const OWNER: i64 = -4;
/// The frame is pinned, or the object is in use by another CPU: try again. [`VM_CREATE`], [`VM_RECLAIM`] and [`AUDIT`] look at
/// all VMs, or are in the way of calls that do, so a CPU that works on another VM may be the reason.
pub const BUSY: i64 = -5;
/// Metadata is used up: donate more ([`VM_DONATE_META`]).
pub const NO_META: i64 = -6;
/// Postern's pool is used up: give it more ([`POOL_TOPUP`]).
pub const NO_POOL: i64 = -7;
/// The VM or vCPU is not in a state that allows the call.
pub const STATE: i64 = -8;
/// No VM with this handle, or no vCPU with this index.
pub const NO_SUCH: i64 = -9;
/// Something is there already.
pub const EXISTS: i64 = -10;
/// The frame has failed in hardware.
pub const POISONED: i64 = -11;
/// A fixed limit is reached (VMs, vCPUs, pins).
pub const LIMIT: i64 = -12;
/// The machine lacks something the call needs.
pub const ABSENT: i64 = -13;

/// Most frames that one call takes for metadata or the pool; the metadata of [`VM_CREATE`] too.
pub const FRAMES_PER_CALL: u64 = 4;
/// Most frames of [`VM_DONATE`] that are not a block.
pub const PAGES_PER_DONATION: u64 = 8;
/// Fewest metadata frames of [`VM_CREATE`]: two for the root table, one for the map of shared pages, one spare.
pub const META_FRAMES_MIN: u64 = 4;
/// Most VMs at a time.
pub const VMS_MAX: usize = 32;
/// Most vCPUs of a VM.
pub const VCPUS_MAX: usize = 8;
/// Most bytes of a guest's RAM, a multiple of the 128 MiB that one page of its shared-page map covers.
pub const GUEST_RAM_MAX: u64 = 64 << 30;

/// What [`VM_CREATE`] reads from its configuration frame, as 64-bit words from the start of the frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmConfig {
    /// [`dialect`].
    pub dialect: u64,
    /// vCPUs, 1 to [`VCPUS_MAX`].
    pub vcpu_count: u64,
    /// First guest physical address of RAM, a multiple of 2 MiB.
    pub ram_base: u64,
    /// Bytes of RAM, a multiple of 2 MiB, at most [`GUEST_RAM_MAX`].
    pub ram_size: u64,
    /// Guest physical address of the interrupt distributor (64 KiB), outside RAM; zero for [`dialect::TDX`].
    pub gicd_base: u64,
    /// Guest physical address of the redistributors (128 KiB for each vCPU), outside RAM; zero for [`dialect::TDX`].
    pub gicr_base: u64,
}

/// Guest ABIs, for [`VmConfig::dialect`].
pub mod dialect {
    /// The pKVM hypercalls of Linux's `ARM_PKVM_GUEST`.
    pub const PKVM: u64 = 1;
    /// Arm CCA's Realm Services Interface.
    pub const REALM: u64 = 2;
    /// Intel TDX's TDCALL and TDVMCALL.
    pub const TDX: u64 = 3;
}

/// What [`VM_INFO`] writes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmInfo {
    /// [`vm_state`].
    pub state: u64,
    /// Metadata frames given so far.
    pub meta_frames: u64,
    /// Metadata frames not in use.
    pub meta_free: u64,
    /// Private frames.
    pub private_frames: u64,
    /// Shared frames.
    pub shared_frames: u64,
    /// SHA-384 of the launch image, six big-endian words as bytes; zero before sealing.
    pub measurement: [u64; 6],
    /// Conversions to shared, in frames.
    pub shares: u64,
    /// Conversions to private, in frames.
    pub unshares: u64,
}

/// States of a VM in [`VmInfo::state`].
pub mod vm_state {
    /// Accepts [`super::VM_LOAD`]; cannot run.
    pub const NEW: u64 = 0;
    /// Sealed; runs.
    pub const SEALED: u64 = 1;
    /// Destroyed; can only be reclaimed.
    pub const DYING: u64 = 2;
}

/// Frame states in the answer of [`FRAME_INFO`].
pub mod frame {
    /// Not RAM that Postern manages.
    pub const ABSENT: u64 = 0;
    /// The host's.
    pub const HOST: u64 = 1;
    /// Postern's own.
    pub const POSTERN: u64 = 2;
    /// Metadata of a VM.
    pub const META: u64 = 3;
    /// A guest's, not accessible to the host.
    pub const PRIVATE: u64 = 4;
    /// A guest's, shared with the host.
    pub const SHARED: u64 = 5;
    /// Changing hands.
    pub const MOVING: u64 = 6;
    /// Failed in hardware.
    pub const POISONED: u64 = 7;
}

/// Words of the page that [`COUNTERS`] fills.
pub mod counter {
    /// Host calls taken.
    pub const HOST_CALLS: usize = 0;
    /// Host calls refused.
    pub const HOST_REFUSALS: usize = 1;
    /// Guest calls taken.
    pub const GUEST_CALLS: usize = 2;
    /// Guest calls refused.
    pub const GUEST_REFUSALS: usize = 3;
    /// Aborts injected into the host for touching memory that is not its own.
    pub const HOST_ABORTS: usize = 4;
    /// Guest entries.
    pub const GUEST_ENTRIES: usize = 5;
    /// Exits to the host.
    pub const HOST_EXITS: usize = 6;
    /// Frames wiped.
    pub const WIPES: usize = 7;
    /// Host blocks split.
    pub const SPLITS: usize = 8;
    /// Host blocks merged.
    pub const MERGES: usize = 9;
    /// TLB flushes.
    pub const FLUSHES: usize = 10;
    /// Frames set aside for Postern itself.
    pub const POSTERN_FRAMES: usize = 11;
    /// Free frames in Postern's pool.
    pub const POOL_FREE: usize = 12;
    /// Longest time in Postern with interrupts off, in ticks of the system counter.
    pub const LONGEST_TICKS: usize = 13;
    /// What the longest section was doing: the call number or exit syndrome.
    pub const LONGEST_CAUSE: usize = 14;
    /// Host faults that were resolved by looking again.
    pub const HOST_RETRIES: usize = 15;
    /// Aborts and undefined-instruction exceptions given to guests.
    pub const GUEST_FAULTS: usize = 16;
    /// GiBs of RAM that the host's tables map in one piece at present.
    pub const GIB_LEAVES: usize = 17;
    /// Number of counters.
    pub const COUNT: usize = 18;
}

const _: () = assert!(size_of::<VmConfig>() == 48);
const _: () = assert!(size_of::<VmInfo>() == 104);
const _: () = assert!(counter::COUNT <= 512);
