//! vCPUs: their page, and what happens between `VCPU_RUN` and its exit reason.

use crate::call::guest::{self, Outcome, quick};
use crate::postern::Postern;
use crate::vm::{Vm, ending};
use abi::host::counter;
use abi::run::{self, exit, failure};
use arch::machine::Vcpu;
use arch::{Abort, Exit, VcpuMask};
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use guestmem::{Fault, Machine, Pfn, Visibility};
use spin::Mutex;

/// Power states of a vCPU, as PSCI sees them.
pub mod power {
    /// Off.
    pub const OFF: u64 = 0;
    /// Being started by another vCPU.
    pub const PENDING: u64 = 1;
    /// On.
    pub const ON: u64 = 2;
}

/// A vCPU, in a frame of its VM's metadata.
#[derive(Debug)]
pub struct VcpuPage {
    /// Its number.
    pub index: usize,
    /// The frame this is in.
    pub frame: Pfn,
    /// The host's run page, lent to Postern.
    pub run_page: Pfn,
    /// [`power`].
    pub power: AtomicU64,
    /// The host wants it back.
    pub kicked: AtomicBool,
    /// Index of the CPU that runs it, plus one; 0 for none.
    pub runs_on: AtomicUsize,
    /// Where a realm's host call wants its answer: the structure's address plus one; 0 for nothing.
    pub host_call: AtomicU64,
    /// The registers: whoever runs the vCPU holds the lock, so a vCPU cannot run twice.
    pub own: Mutex<Registers>,
}

/// A vCPU's registers.
pub struct Registers(pub Vcpu);

impl core::fmt::Debug for Registers {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // Never print what is in them: it belongs to the guest.
        f.write_str("Registers")
    }
}

/// Why a run ended, with what the host needs to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// See [`exit`] for all of these.
    Interrupt,
    /// Waits for an interrupt.
    Wait,
    /// Device read: address and size in bytes.
    MmioRead(u64, u32),
    /// Device write: address, size in bytes, value.
    MmioWrite(u64, u32, u64),
    /// Port read: number and size in bytes.
    PortRead(u16, u32),
    /// Port write: number, size in bytes, value.
    PortWrite(u16, u32, u32),
    /// A page is wanted at the address.
    MemoryFault(u64, Visibility),
    /// The VM ended as [`ending`] says.
    Ended(u64),
    /// The guest started vCPU n.
    CpuOn(usize),
    /// This vCPU is off.
    CpuOff,
    /// Other vCPUs have interrupts to take.
    Wake(VcpuMask),
    /// RSI_HOST_CALL; its words are in the run page already.
    HostCall,
    /// Metadata is used up.
    NeedMeta,
    /// Postern's pool is used up.
    NeedPool,
}

impl Reason {
    /// The [`exit`] number, and the words of the run page that go with it.
    fn report(self, deadline: impl FnOnce() -> u64) -> (u64, ArrayVec<(usize, u64), 3>) {
        let mut details = ArrayVec::new();
        let number = match self {
            Self::Interrupt => exit::INTERRUPT,
            Self::Wait => {
                details.push((run::DEADLINE, deadline()));
                exit::WAIT
            }
            Self::MmioRead(address, size) => {
                details.extend([(run::ADDRESS, address), (run::SIZE, size.into())]);
                exit::MMIO_READ
            }
            Self::MmioWrite(address, size, value) => {
                details.extend([(run::ADDRESS, address), (run::SIZE, size.into()), (run::VALUE, value)]);
                exit::MMIO_WRITE
            }
            Self::PortRead(port, size) => {
                details.extend([(run::ADDRESS, port.into()), (run::SIZE, size.into())]);
                exit::IO_READ
            }
            Self::PortWrite(port, size, value) => {
                details.extend([(run::ADDRESS, port.into()), (run::SIZE, size.into()), (run::VALUE, value.into())]);
                exit::IO_WRITE
            }
            Self::MemoryFault(address, visibility) => {
                details.extend([(run::ADDRESS, address), (run::SHARED, (visibility == Visibility::Shared).into())]);
                exit::MEMORY_FAULT
            }
            Self::Ended(ending::OFF) => exit::SYSTEM_OFF,
            Self::Ended(ending::RESET) => exit::SYSTEM_RESET,
            Self::Ended(how) => {
                details.push((run::FAILURE, ending::failure(how)));
                exit::FAILED
            }
            Self::CpuOn(index) => {
                details.push((run::VCPU, index as u64));
                exit::CPU_ON
            }
            Self::CpuOff => exit::CPU_OFF,
            Self::Wake(mask) => {
                details.push((run::VCPU_MASK, mask.into()));
                exit::WAKE
            }
            Self::HostCall => exit::HOST_CALL,
            Self::NeedMeta => exit::NEED_META,
            Self::NeedPool => exit::NEED_POOL,
        };
        (number, details)
    }
}

/// The guest cannot go on, for this [`failure`].
fn fail(vm: &Vm, why: u64) -> Reason {
    Reason::Ended(vm.end(ending::failed(why)))
}

impl Postern {
    /// Runs the vCPU, whose registers the caller holds, until something needs the host; returns an [`exit`] number.
    pub fn run(&self, vm: &Vm, page: &VcpuPage, registers: &mut Vcpu) -> u64 {
        // Lent to Postern for as long as there is the vCPU, so it is host memory whatever the host does.
        let words = self.core.machine.words(page.run_page);
        if registers.awaits_read() {
            registers.complete_read(words[run::MMIO_VALUE].load(Ordering::Relaxed));
        }
        self.counters.count(counter::GUEST_ENTRIES);
        registers.load(&vm.arch.0);
        page.runs_on.store(arch::machine::cpu() + 1, Ordering::Relaxed);
        // Before the first look at what ends a run: see `Vm::interrupt`.
        fence(Ordering::SeqCst);
        let reason = match guest::finish_host_call(self, vm, page, registers) {
            Some(reason) => reason,
            None => self.run_loaded(vm, page, registers),
        };
        page.runs_on.store(0, Ordering::Relaxed);
        registers.put(&vm.arch.0);
        self.counters.count(counter::HOST_EXITS);
        let (number, details) = reason.report(|| registers.deadline(&vm.arch.0));
        for (index, value) in details {
            words[index].store(value, Ordering::Relaxed);
        }
        number
    }

    fn run_loaded(&self, vm: &Vm, page: &VcpuPage, registers: &mut Vcpu) -> Reason {
        let calls = quick::Calls::new(self, vm, page);
        loop {
            if !vm.runs() {
                return Reason::Ended(vm.ending.load(Ordering::Acquire));
            }
            if page.kicked.swap(false, Ordering::Acquire) {
                return Reason::Interrupt;
            }
            let kicks = registers.take_kicks();
            if kicks != 0 {
                return Reason::Wake(kicks);
            }
            let outcome = match registers.enter(&vm.arch.0, &calls) {
                Exit::Handled => None,
                Exit::Refused => {
                    self.counters.count(counter::GUEST_FAULTS);
                    None
                }
                Exit::Interrupt => Some(Reason::Interrupt),
                Exit::Wait => Some(Reason::Wait),
                Exit::Call(conduit) => {
                    calls.take_reason().or_else(|| match guest::dispatch(self, vm, page, registers, conduit) {
                        Outcome::Resume => None,
                        Outcome::Exit(reason) => Some(reason),
                    })
                }
                Exit::Abort(abort) => self.abort(vm, registers, abort),
                Exit::Port(access) => Some(match access.value {
                    Some(value) => Reason::PortWrite(access.port, access.size, value),
                    None => Reason::PortRead(access.port, access.size),
                }),
                Exit::Shutdown => Some(fail(vm, failure::SHUTDOWN)),
                Exit::SError { syndrome } => {
                    // A host can have one pending when it enters the guest, so it may not stop Postern. Whose it was
                    // cannot be told, so the guest whose time it hit ends.
                    log::error!("SError while VM {} ran, syndrome {syndrome:#x}", vm.memory.id().get());
                    Some(fail(vm, failure::MACHINE_ERROR))
                }
            };
            if let Some(reason) = outcome {
                return reason;
            }
        }
    }

    /// A stage-2 fault: memory that is not there, memory that is not memory, or memory through the wrong half.
    fn abort(&self, vm: &Vm, registers: &mut Vcpu, abort: Abort) -> Option<Reason> {
        let alias = vm.alias;
        let shared = alias != 0 && abort.address & alias != 0;
        let address = abort.address & !alias;
        let through = if shared { Visibility::Shared } else { Visibility::Private };
        if let Some(gfn) = vm.ram(address) {
            match self.core.fault(&vm.memory, gfn, through) {
                Fault::Retry => return None,
                // Fetching from the shared half is an error of the guest's, page or not.
                Fault::Absent(visibility) if !(shared && abort.fetch) => {
                    return Some(Reason::MemoryFault(address & !(abi::FRAME_SIZE - 1), visibility));
                }
                Fault::Poisoned => return Some(fail(vm, failure::POISON)),
                Fault::Absent(_) | Fault::Wrong | Fault::OutOfRange => {}
            }
        } else if (shared || alias == 0)
            && let Some(access) = abort.access
            && vm.guards.admit(address)
        {
            registers.finish_access(access);
            return Some(match access.value {
                Some(value) => Reason::MmioWrite(address, access.size, value),
                None => Reason::MmioRead(address, access.size),
            });
        }
        // Nothing can answer there: what the guest gets on bare metal is an external abort (DEN0137, RIPAS EMPTY).
        self.counters.count(counter::GUEST_FAULTS);
        registers.inject_abort(abort.fetch, abort.write);
        None
    }
}
