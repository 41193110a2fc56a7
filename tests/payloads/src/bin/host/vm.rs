//! One protected guest, as its VMM knows it.

use crate::console::GuestConsole;
use crate::memory::{Give, GuestMemory};
use crate::platform::{self, Devices};
use crate::remote;
use abi::{host, run};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use payloads::{hostcall, percpu};
use spin::mutex::SpinMutex;

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// [`abi::host::dialect`].
    pub dialect: u64,
    /// vCPUs.
    pub vcpus: u64,
    /// Bytes of RAM at [`crate::platform::RAM_BASE`].
    pub memory: u64,
    /// How much a fault is served with.
    pub give: Give,
}

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It powered off.
    Off,
    /// It asked for a reset.
    Reset,
    /// It took longer than it was given.
    Late,
    /// Postern stopped it: [`abi::run::failure`].
    Failed(u64),
    /// The VMM could not go on.
    Host(String),
}

impl End {
    /// The reason for the session's last line; `None` for a clean end.
    pub fn reason(&self) -> Option<String> {
        Some(match self {
            Self::Off => return None,
            Self::Reset => String::from("guest reset"),
            Self::Late => String::from("the guest did not end in time"),
            Self::Failed(run::failure::UNRESOLVABLE_FAULT) => {
                String::from("the guest used an address that nothing can back")
            }
            Self::Failed(run::failure::POISON) => String::from("the guest touched failed memory"),
            Self::Failed(run::failure::ILLEGAL_STATE) => String::from("the guest left the AArch64 state"),
            Self::Failed(run::failure::FATAL) => String::from("the guest reports a fatal error"),
            Self::Failed(run::failure::SHUTDOWN) => String::from("a vCPU of the guest shut down (triple fault)"),
            Self::Failed(code) => format!("the guest failed with code {code}"),
            Self::Host(reason) => reason.clone(),
        })
    }
}

/// A virtual CPU.
pub struct Vcpu {
    /// Its number.
    pub index: u64,
    /// The host CPU that runs it.
    pub cpu: usize,
    /// The run page, see [`abi::run`].
    pub page: u64,
    /// How often the guest has switched it on less how often off. The two may be seen in the wrong order: a vCPU that
    /// goes off can be started again before the host CPU that ran it hears of either.
    starts: AtomicI64,
    /// Set when it has to be run before its deadline.
    pub wake: AtomicBool,
    /// When to run it again, in ticks; zero for at once.
    pub deadline: AtomicU64,
}

impl Vcpu {
    /// vCPU `index` with the run page `page`; it is on from the start if it is the first, or if all are.
    pub fn new(index: u64, page: u64) -> Self {
        Self {
            index,
            cpu: index as usize % remote::cpus(),
            page,
            starts: AtomicI64::new(i64::from(index == 0 || platform::ALL_START)),
            wake: AtomicBool::new(false),
            deadline: AtomicU64::new(0),
        }
    }

    /// Whether the guest has switched it on.
    pub fn is_on(&self) -> bool {
        self.starts.load(Ordering::Acquire) > 0
    }

    /// The guest has switched it on.
    pub fn switch_on(&self) {
        self.deadline.store(0, Ordering::Relaxed);
        self.starts.fetch_add(1, Ordering::AcqRel);
    }

    /// The guest has switched it off.
    pub fn switch_off(&self) {
        self.starts.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether there is a reason to run it at `now`.
    pub fn runnable(&self, now: u64) -> bool {
        self.is_on() && (self.wake.load(Ordering::Acquire) || self.deadline.load(Ordering::Relaxed) <= now)
    }

    /// A word of the run page.
    pub fn word(&self, index: usize) -> u64 {
        crate::frames::read(self.page + index as u64 * 8)
    }

    /// Sets a word of the run page.
    pub fn set_word(&self, index: usize, value: u64) {
        crate::frames::write(self.page + index as u64 * 8, value);
    }
}

/// A guest.
pub struct Vm {
    /// Postern's name for it.
    pub handle: u64,
    /// Its memory.
    pub memory: SpinMutex<GuestMemory>,
    /// Its console.
    pub console: SpinMutex<GuestConsole>,
    /// Its other devices.
    #[allow(dead_code, reason = "not every platform has any")]
    pub devices: SpinMutex<Devices>,
    /// Its vCPUs.
    pub vcpus: Vec<Vcpu>,
    ready: AtomicBool,
    paused: AtomicBool,
    /// Whether the host's timer ends a vCPU's turn, or Postern's alone.
    pub ticks: AtomicBool,
    /// When to give up on it, in ticks; `u64::MAX` for never.
    pub time_limit: AtomicU64,
    ended: AtomicBool,
    end: SpinMutex<Option<End>>,
}

impl Vm {
    /// A guest without vCPUs.
    pub fn new(handle: u64, memory: GuestMemory, console: GuestConsole) -> Self {
        Self {
            handle,
            memory: SpinMutex::new(memory),
            console: SpinMutex::new(console),
            devices: SpinMutex::default(),
            vcpus: Vec::new(),
            ready: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            ticks: AtomicBool::new(true),
            time_limit: AtomicU64::new(u64::MAX),
            ended: AtomicBool::new(false),
            end: SpinMutex::new(None),
        }
    }

    /// Whether the host's CPUs are to go on running it.
    pub fn active(&self) -> bool {
        !self.ended() && !self.paused.load(Ordering::Acquire)
    }

    /// Makes all host CPUs stop running it for now.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::Release);
        (0..self.vcpus.len()).for_each(|index| self.notify(index));
    }

    /// Lets it run again, with the next [`crate::schedule::run`].
    pub fn unpause(&self) {
        self.paused.store(false, Ordering::Release);
    }

    /// Whether the guest has said that it is ready.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// The guest says that it is ready.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Whether it has come to its end.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Notes the end, the first one counts, and stops all its vCPUs.
    pub fn finish(&self, end: End) {
        let first = {
            let mut slot = self.end.lock();
            let first = slot.is_none();
            slot.get_or_insert(end);
            first
        };
        self.ended.store(true, Ordering::Release);
        if first {
            (0..self.vcpus.len()).for_each(|index| self.notify(index));
        }
    }

    /// How it ended.
    pub fn end(&self) -> End {
        self.end.lock().clone().unwrap_or_else(|| End::Host(String::from("the guest has not ended")))
    }

    /// Makes vCPU `index` look at its interrupts soon, wherever it is.
    pub fn notify(&self, index: usize) {
        let Some(vcpu) = self.vcpus.get(index) else { return };
        vcpu.wake.store(true, Ordering::Release);
        if vcpu.cpu != percpu::index() {
            hostcall::vcpu_kick(self.handle, vcpu.index);
            remote::wake(vcpu.cpu);
        }
    }

    /// Sets the level of a device interrupt.
    pub fn interrupt(&self, intid: u32, level: bool) {
        match hostcall::vm_irq(self.handle, intid, level) {
            Ok(index) if level => self.notify(index as usize),
            Ok(_) => {}
            // A dying VM takes no interrupts.
            Err(host::STATE) if self.ended() => {}
            Err(status) => self.finish(End::Host(format!("interrupt {intid} refused with status {status}"))),
        }
    }
}
