//! VMs: a fixed table of slots, and handles that a reused slot does not answer to.

use crate::Refused;
use crate::call::pkvm::mmio_guard::Guards;
use crate::measure::{Extensible, Measurement};
use crate::vcpu::VcpuPage;
use abi::host::{VCPUS_MAX, VMS_MAX, VmConfig, dialect, vm_state};
use core::sync::atomic::{AtomicU64, Ordering, fence};
use guestmem::{Gfn, Guest, OwnerId};
use spin::{Mutex, Once, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The guest ABI of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// pKVM hypercalls.
    Pkvm,
    /// Realm Services Interface.
    Realm,
    /// TDCALL and TDVMCALL.
    Tdx,
}

impl Dialect {
    /// From [`abi::host::dialect`]; `None` for what this machine cannot run, too.
    pub fn from_number(number: u64) -> Option<Self> {
        let known = match number {
            dialect::PKVM => Self::Pkvm,
            dialect::REALM => Self::Realm,
            dialect::TDX => Self::Tdx,
            _ => return None,
        };
        arch::machine::DIALECTS.contains(&number).then_some(known)
    }

    /// Whether vCPUs other than the first are switched on by a call, or all start when the VM does.
    pub fn switches_vcpus(self) -> bool {
        self != Self::Tdx
    }

    /// The address bit that selects the shared half.
    pub fn alias_bit(self) -> Option<u32> {
        match self {
            Self::Pkvm => None,
            Self::Realm => Some(abi::rsi::IPA_BITS - 1),
            // Linux takes any width, and a bit that the CPU has not would be a reserved one of its page tables.
            Self::Tdx => Some(arch::machine::ipa_bits() as u32 - 1),
        }
    }

    /// That bit as a value; 0 when there is none.
    pub fn alias(self) -> u64 {
        self.alias_bit().map_or(0, |bit| 1 << bit)
    }
}

/// How a running VM ended.
pub mod ending {
    /// It has not.
    pub const NONE: u64 = 0;
    /// `SYSTEM_OFF`.
    pub const OFF: u64 = 1;
    /// `SYSTEM_RESET`.
    pub const RESET: u64 = 2;
    /// It did what cannot be resolved; [`failed`] adds what.
    pub const FAILED: u64 = 3;

    /// [`FAILED`], with an [`abi::run::failure`].
    pub const fn failed(why: u64) -> u64 {
        why << 8 | FAILED
    }

    /// What [`failed`] added; [`abi::run::failure::DESTROYED`] for a VM that the host ended.
    pub const fn failure(ending: u64) -> u64 {
        if ending == NONE { abi::run::failure::DESTROYED } else { ending >> 8 }
    }
}

/// One VM.
#[derive(Debug)]
pub struct Vm {
    /// Its configuration, checked.
    pub config: VmConfig,
    /// Guest ABI.
    pub dialect: Dialect,
    /// [`Dialect::alias`].
    pub alias: u64,
    /// Memory, in the ownership core.
    pub memory: Guest,
    /// Interrupt controller and counter.
    pub arch: ArchVm,
    /// [`vm_state`]; goes up only.
    pub state: AtomicU64,
    /// [`ending`].
    pub ending: AtomicU64,
    /// Devices that a pKVM guest has declared.
    pub guards: Guards,
    /// vCPUs that the host has created.
    pub vcpus: [Once<&'static VcpuPage>; VCPUS_MAX],
    /// Launch measurement.
    pub launch: Mutex<Measurement>,
    /// Measurement registers of the guest.
    pub extensible: Mutex<Extensible>,
    /// TD_CTLS of [`Dialect::Tdx`].
    pub controls: AtomicU64,
    /// Where [`Dialect::Tdx`] hears of finished requests, as the number of an interrupt; 0 for nowhere.
    pub notify: AtomicU64,
    /// Where vCPU 0 starts: entry and argument.
    pub entry: Once<(u64, u64)>,
}

/// The architecture's part of a VM.
pub struct ArchVm(pub arch::machine::Vm);

impl core::fmt::Debug for ArchVm {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("ArchVm")
    }
}

impl Vm {
    /// Refuses unless the VM is in `state`.
    pub fn expect(&self, state: u64, why: &'static str) -> Result<(), Refused> {
        if self.state.load(Ordering::Acquire) == state { Ok(()) } else { Err(Refused::State(why)) }
    }

    /// Whether the guest may still run.
    pub fn runs(&self) -> bool {
        self.state.load(Ordering::Acquire) == vm_state::SEALED && self.ending.load(Ordering::Acquire) == ending::NONE
    }

    /// The guest ends in this way, an [`ending`], unless it has ended already, and none of its vCPUs goes on. How it ended.
    pub fn end(&self, how: u64) -> u64 {
        // The first vCPU to say so decides.
        let before = self.ending.compare_exchange(ending::NONE, how, Ordering::AcqRel, Ordering::Acquire);
        self.interrupt();
        before.err().unwrap_or(how)
    }

    /// Makes the other CPUs that run a vCPU of this VM look whether it may go on.
    pub fn interrupt(&self) {
        // Either this sees that a CPU has begun to run a vCPU, or that CPU sees why it should not: it writes and looks in
        // the opposite order (`Postern::run`).
        fence(Ordering::SeqCst);
        for page in self.vcpus.iter().filter_map(Once::get) {
            let cpu = page.runs_on.load(Ordering::Relaxed).checked_sub(1);
            if let Some(cpu) = cpu.filter(|cpu| *cpu != arch::machine::cpu()) {
                arch::machine::interrupt_cpu(cpu);
            }
        }
    }

    /// vCPU `index`.
    pub fn vcpu(&self, index: u64) -> Result<&'static VcpuPage, Refused> {
        let slot = usize::try_from(index).ok().and_then(|index| self.vcpus.get(index));
        slot.and_then(Once::get).copied().ok_or(Refused::NoSuch("vCPU"))
    }

    /// Whether all of so many bytes from an address on are RAM, and there are any. `address` has no shared bit.
    #[inline(always)]
    pub fn is_ram(&self, address: u64, bytes: u64) -> bool {
        let before = address.wrapping_sub(self.config.ram_base);
        before < self.config.ram_size && bytes.wrapping_sub(1) < self.config.ram_size - before
    }

    /// The RAM frame that an address is in; `None` when it is outside RAM. `address` has no shared bit.
    pub fn ram(&self, address: u64) -> Option<Gfn> {
        let within = address.checked_sub(self.config.ram_base)? < self.config.ram_size;
        within.then(|| Gfn::from_addr(address))
    }
}

/// All slots.
#[derive(Debug)]
pub struct Vms {
    slots: [RwLock<Option<Vm>>; VMS_MAX],
    generations: [AtomicU64; VMS_MAX],
    /// Held while an empty slot is looked for, and while all have to stay empty.
    search: Mutex<()>,
}

/// A VM in use: it cannot go away meanwhile.
pub type VmRef<'a> = RwLockReadGuard<'a, Option<Vm>>;

impl Vms {
    /// No VMs.
    pub const fn new() -> Self {
        Self {
            slots: [const { RwLock::new(None) }; VMS_MAX],
            generations: [const { AtomicU64::new(1) }; VMS_MAX],
            search: Mutex::new(()),
        }
    }

    fn slot(&self, handle: u64) -> Result<&RwLock<Option<Vm>>, Refused> {
        let index = (handle & 0xffff) as usize;
        let generation = self.generations.get(index).ok_or(Refused::NoSuch("VM"))?;
        if generation.load(Ordering::Acquire) != handle >> 16 {
            return Err(Refused::NoSuch("VM"));
        }
        Ok(&self.slots[index])
    }

    /// Runs `f` on the VM. Never waits: the only ones that keep a slot for themselves are its VM's creation and reclaim.
    pub fn with<R>(&self, handle: u64, f: impl FnOnce(&Vm) -> Result<R, Refused>) -> Result<R, Refused> {
        let guard = self.slot(handle)?.try_read().ok_or(Refused::Busy("VM"))?;
        // The slot may have been emptied, or given to another VM, between the look at its generation and the lock.
        self.slot(handle)?;
        f(guard.as_ref().ok_or(Refused::NoSuch("VM"))?)
    }

    /// The VM for oneself: nobody runs it or calls on it.
    pub fn exclusive(&self, handle: u64) -> Result<RwLockWriteGuard<'_, Option<Vm>>, Refused> {
        let guard = self.slot(handle)?.try_write().ok_or(Refused::Busy("VM"))?;
        self.slot(handle)?;
        if guard.is_none() { Err(Refused::NoSuch("VM")) } else { Ok(guard) }
    }

    /// An empty slot, its owner number, and the handle that a VM put there has.
    ///
    /// A slot with a VM is only looked at: calls on that VM go on meanwhile, and only reclaim, which wants it for itself, has to
    /// try again.
    pub fn vacant(&self) -> Result<(RwLockWriteGuard<'_, Option<Vm>>, OwnerId, u64), Refused> {
        let mut full = Refused::Limit("VMs");
        // What is found empty stays so until it is taken: others that create wait for these few looks.
        let _search = self.search.lock();
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.try_read().is_some_and(|vm| vm.is_some()) {
                continue;
            }
            // If not, then a VM is made or reclaimed there, or an audit looks.
            let Some(guard) = slot.try_write() else {
                full = Refused::Busy("VM slot");
                continue;
            };
            if guard.is_none() {
                let owner = OwnerId::new(index as u16 + 1).ok_or(Refused::Limit("VMs"))?;
                let generation = self.generations[index].load(Ordering::Acquire);
                return Ok((guard, owner, generation << 16 | index as u64));
            }
        }
        Err(full)
    }

    /// Runs `f` if there is no VM, and none is created meanwhile; whether it did. A slot that somebody works on counts as a VM.
    pub fn while_empty(&self, f: impl FnOnce()) -> bool {
        let _search = self.search.lock();
        let empty = self.slots.iter().all(|slot| slot.try_read().is_some_and(|vm| vm.is_none()));
        if empty {
            f();
        }
        empty
    }

    /// Makes the handle invalid for good; the caller empties the slot.
    pub fn retire(&self, handle: u64) {
        if let Some(generation) = self.generations.get((handle & 0xffff) as usize) {
            generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// All VMs at once, by owner number minus one.
    pub fn all(&self) -> Result<[VmRef<'_>; VMS_MAX], Refused> {
        let mut busy = false;
        let guards = self.slots.each_ref().map(|slot| {
            let guard = slot.try_read();
            busy |= guard.is_none();
            guard
        });
        if busy { Err(Refused::Busy("VM")) } else { Ok(guards.map(|guard| guard.expect("none is busy"))) }
    }
}

impl Default for Vms {
    fn default() -> Self {
        Self::new()
    }
}
