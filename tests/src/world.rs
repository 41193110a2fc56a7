//! A machine with Postern on it, and the test as its host.

use abi::host::{self, VmConfig, counter, dialect};
use abi::{BLOCK_SIZE, FRAME_SIZE};
use arch::machine::Machine;
use arch::{BootInfo, Kernel};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use guestmem::{Pfn, Space};
use hypervisor::vm::Vms;
use hypervisor::{Postern, boot};
use loader::Bytes;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// RAM of the machine, with a hole in it: all of Postern is in the first 2 MiB.
pub const RAM: [Bytes; 2] = [0x4000_0000..0x4200_0000, 0x8000_0000..0x8040_0000];
/// Addresses at which there is no RAM, or no frame at all.
pub const NOT_RAM: [u64; 5] = [0, 0x0800_0000, 0x4200_0000, 1 << 40, u64::MAX - 4095];
/// Interrupt translation service, which the host must not reach.
pub const ITS: Bytes = 0x0808_0000..0x080A_0000;
const IMAGE_END: u64 = 0x4001_0000;
const FREE_START: u64 = 0x4002_0000;
/// Frames between the records and the heap of boot in [`World::with_little_pool`].
const LITTLE_POOL: u64 = 20;
const POSTERN_END: u64 = 0x4020_0000;

/// Postern, booted.
#[derive(Debug)]
pub struct World {
    /// What the host calls.
    pub postern: Postern,
    /// Next host frame for [`World::pages`].
    next_page: AtomicU64,
    /// End of the host memory that [`World::block`] takes from.
    next_block: AtomicU64,
}

/// Tables of VMs that a world has left behind empty. Postern wants them for good, and a fuzzer makes worlds without end.
fn used_vms() -> MutexGuard<'static, Vec<&'static Vms>> {
    static USED: Mutex<Vec<&'static Vms>> = Mutex::new(Vec::new());
    USED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for World {
    fn drop(&mut self) {
        let vms = self.postern.vms;
        if vms.all().is_ok_and(|vms| vms.iter().all(|vm| vm.is_none())) {
            used_vms().push(vms);
        }
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A machine whose host has just been entered.
    pub fn new() -> Self {
        Self::booted(&Self::boot_info())
    }

    /// A machine with next to no pool: a few blocks can be split, not all.
    pub fn with_little_pool() -> Self {
        let info = Self::boot_info();
        let free = info.free.end - boot::HEAP_SIZE - LITTLE_POOL * FRAME_SIZE..info.free.end;
        Self::booted(&BootInfo { free, ..info })
    }

    fn booted(info: &BootInfo) -> Self {
        let plan = boot::plan(info).expect("memory for Postern");
        let summaries: Vec<AtomicU64> =
            (0..(plan.summaries.end - plan.summaries.start) / 8).map(|_| AtomicU64::new(0)).collect();
        let machine = Machine::new(boot::regions(&info.machine).as_ref());
        let vms = used_vms().pop().unwrap_or_else(|| Box::leak(Box::new(Vms::new())));
        let postern = boot::build(machine, info, &plan, summaries.leak(), vms).expect("boot");
        boot::self_check(&postern).expect("a database that agrees with the host's table");
        Self { postern, next_page: AtomicU64::new(POSTERN_END), next_block: AtomicU64::new(RAM[0].end) }
    }

    /// What the boot of this machine hands over.
    pub fn boot_info() -> BootInfo {
        let mut machine = loader::Machine { distributor: 0x0800_0000..0x0801_0000, ..loader::Machine::default() };
        machine.memory.extend(RAM);
        machine.its.push(ITS);
        BootInfo {
            machine,
            tree: &[],
            image: RAM[0].start..IMAGE_END,
            memory: IMAGE_END..POSTERN_END,
            free: FREE_START..POSTERN_END,
            record: None,
            entered_at: 0,
        }
    }

    /// One host call: status and results.
    pub fn call<const N: usize>(&self, number: u64, arguments: [u64; N]) -> (i64, [u64; 3]) {
        let mut all = [0; 6];
        all[..N].copy_from_slice(&arguments);
        let [status, a, b, c] = self.postern.host_call(number, all);
        (status as i64, [a, b, c])
    }

    /// A host call, repeated until it no longer answers [`host::MORE`].
    pub fn finish<const N: usize>(&self, number: u64, arguments: [u64; N]) -> (i64, [u64; 3]) {
        for _ in 0..100_000 {
            let answer = self.call(number, arguments);
            if answer.0 != host::MORE {
                return answer;
            }
        }
        panic!("call {number:#x} does not come to an end");
    }

    /// As [`World::finish`], for calls that must work; their first result.
    #[track_caller]
    pub fn ok<const N: usize>(&self, number: u64, arguments: [u64; N]) -> u64 {
        let (status, values) = self.finish(number, arguments);
        assert_eq!(status, host::OK, "call {number:#x} {arguments:#x?}");
        values[0]
    }

    /// The status of a call that is refused, having changed nothing but the counters.
    #[track_caller]
    pub fn refusal<const N: usize>(&self, number: u64, arguments: [u64; N]) -> i64 {
        let before = self.postern.counters.get(counter::HOST_REFUSALS);
        let (status, values) = self.call(number, arguments);
        assert!(status < 0, "call {number:#x} {arguments:#x?} answered {status}");
        assert_eq!(values, [0; 3], "a refusal has no results");
        assert_eq!(self.postern.counters.get(counter::HOST_REFUSALS), before + 1, "refusals are counted");
        status
    }

    /// `count` contiguous frames of the host's that no test has used yet, from a multiple of 8 KiB on.
    pub fn pages(&self, count: u64) -> u64 {
        let size = count.next_multiple_of(2) * FRAME_SIZE;
        let at = self.next_page.fetch_add(size, Relaxed);
        assert!(at + size <= self.next_block.load(Relaxed), "the world is too small for this test");
        at
    }

    /// A frame of the host's.
    pub fn page(&self) -> u64 {
        self.pages(1)
    }

    /// A frame of the host's that is full of `value`.
    pub fn filled(&self, value: u64) -> u64 {
        let page = self.page();
        self.content(page).iter().for_each(|word| word.store(value, Relaxed));
        page
    }

    /// 2 MiB of the host's that no test has used yet.
    pub fn block(&self) -> u64 {
        self.next_block.fetch_sub(BLOCK_SIZE, Relaxed) - BLOCK_SIZE
    }

    /// The words of a frame, whoever may see them.
    pub fn content(&self, address: u64) -> &[AtomicU64; 512] {
        self.postern.core.machine.content(Pfn::from_addr(address))
    }

    /// Reads a word of RAM as the host does; `None` when that faults.
    pub fn host_reads(&self, address: u64) -> Option<u64> {
        if !self.is_ram(address) {
            return None;
        }
        self.postern.core.machine.load(Space::Host, self.postern.core.host_root(), address)
    }

    /// Writes a word of RAM as the host does; false when that faults.
    pub fn host_writes(&self, address: u64, value: u64) -> bool {
        self.is_ram(address)
            && self.postern.core.machine.store(Space::Host, self.postern.core.host_root(), address, value)
    }

    /// Whether there is RAM at an address, whoever it belongs to; the rest are devices, which hold nothing.
    fn is_ram(&self, address: u64) -> bool {
        RAM.iter().any(|range| range.contains(&address))
    }

    /// State of a frame, an [`abi::host::frame`], and its pins.
    pub fn frame(&self, address: u64) -> (u64, u64) {
        let (status, [state, pins, _]) = self.call(host::FRAME_INFO, [address]);
        assert_eq!(status, host::OK);
        (state, pins)
    }

    /// The usual configuration: 32 MiB of RAM from 1 GiB on, interrupt controller below.
    pub fn config(dialect: u64, vcpus: u64) -> VmConfig {
        // A TD's is in registers.
        let (gicd_base, gicr_base) = if dialect == dialect::TDX { (0, 0) } else { (0x0800_0000, 0x080A_0000) };
        VmConfig { dialect, vcpu_count: vcpus, ram_base: 0x4000_0000, ram_size: 0x0200_0000, gicd_base, gicr_base }
    }

    /// All dialects.
    pub const ALL_DIALECTS: [u64; 3] = [dialect::PKVM, dialect::REALM, dialect::TDX];
    /// The dialects whose guests call by SMCCC.
    pub const DIALECTS: [u64; 2] = [dialect::PKVM, dialect::REALM];

    /// A frame with a configuration in it.
    pub fn config_page(&self, config: &VmConfig) -> u64 {
        let page = self.page();
        let words =
            [config.dialect, config.vcpu_count, config.ram_base, config.ram_size, config.gicd_base, config.gicr_base];
        for (to, from) in self.content(page).iter().zip(words) {
            to.store(from, Relaxed);
        }
        page
    }

    /// Creates a VM with `meta` frames of metadata, at least [`host::META_FRAMES_MIN`].
    #[track_caller]
    pub fn create(&self, config: &VmConfig, meta: u64) -> u64 {
        let first = host::META_FRAMES_MIN;
        let handle = self.ok(host::VM_CREATE, [self.config_page(config), self.pages(first), first]);
        for _ in first..meta {
            self.ok(host::VM_DONATE_META, [handle, self.page(), 1]);
        }
        handle
    }

    /// A counter of [`abi::host::counter`], by the call that the host has for it.
    pub fn counter(&self, index: usize) -> u64 {
        let out = self.page();
        self.ok(host::COUNTERS, [out]);
        self.content(out)[index].load(Relaxed)
    }

    /// All invariants: the audit, and the TLB against the records.
    #[track_caller]
    pub fn audit(&self) {
        let vms = self.postern.vms.all().expect("nothing else runs");
        let memory: Vec<_> = vms.iter().filter_map(|vm| vm.as_ref().map(|vm| &vm.memory)).collect();
        guestmem::fake::audit(&self.postern.core, &memory);
    }

    /// [`World::audit`], and what the VMs say they have against what there is.
    #[track_caller]
    pub fn check(&self) {
        self.audit();
        let vms = self.postern.vms.all().expect("nothing else runs");
        let info = Self::boot_info();
        let regions = boot::regions(&info.machine);
        for memory in vms.iter().filter_map(|vm| vm.as_ref().map(|vm| &vm.memory)) {
            let counted = guestmem::fake::count(&self.postern.core, regions.as_ref(), memory.id());
            assert_eq!((memory.private_frames(), memory.shared_frames()), counted, "counts of VM {:?}", memory.id());
        }
    }

    /// [`World::check`], and that all RAM but Postern's is the host's.
    #[track_caller]
    pub fn check_empty(&self) {
        self.check();
        assert!(self.postern.vms.all().expect("nothing else runs").iter().all(|vm| vm.is_none()));
        let frames = RAM.into_iter().flat_map(|range| range.step_by(FRAME_SIZE as usize));
        for frame in frames.filter(|frame| *frame >= POSTERN_END) {
            assert_eq!(self.frame(frame), (host::frame::HOST, 0), "frame {frame:#x}");
        }
    }
}
