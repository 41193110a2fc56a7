//! A guest's vCPU whose program a test has written.
//!
//! The program counter is real: instruction `n` of the program is at the entry point plus `4 n`, an HVC leaves it past
//! itself and everything else leaves it at itself, as on arm64 (Arm ARM D1.3.1). A hypervisor that forgets to step over an
//! SMC executes it again, and one that steps over a retried HVC loses it.
//!
//! A VM without an interrupt distributor is a TD: its vCPUs start as x86-64 ones do, get messages for interrupts and
//! virtualization exceptions for faults, and number their registers from RAX on.

use super::machine::VCPU_FRAMES;
use crate::aarch64::syndrome;
use crate::aarch64::vgic::Dist;
use crate::{Abort, Conduit, Exit, MmioAccess, PortAccess, QuickCalls, VcpuMask, VeInfo, VmConfig};
use abi::host::VCPUS_MAX;
use abi::tdx::register::{R8, RAX, RBX, RCX, RSI};
use core::sync::atomic::{AtomicU64, Ordering};
use guestmem::Pfn;
use std::vec::Vec;

/// Basic exit reason of an EPT violation (SDM volume 3, appendix C).
const EPT_VIOLATION: u32 = 48;

/// What all vCPUs of a VM share with the machine.
pub struct Vm {
    /// As it was created.
    pub config: VmConfig,
    dist: Dist,
    /// Vectors of 32 and more that wait, modulo 64, for each vCPU of a TD.
    messages: [AtomicU64; VCPUS_MAX],
}

impl Vm {
    /// A VM in reset state.
    pub fn new(config: VmConfig) -> Self {
        let vm = Self { config, dist: Dist::new(), messages: [const { AtomicU64::new(0) }; VCPUS_MAX] };
        vm.dist.reset(vm.config.vcpu_count);
        vm
    }

    fn is_td(&self) -> bool {
        self.config.gicd_base == 0
    }

    /// Sets the level of a device interrupt and says which vCPU it goes to; `None` when `intid` is no SPI of a guest, or
    /// no vCPU and vector of a TD.
    pub fn set_spi(&self, intid: u64, level: bool) -> Option<usize> {
        if self.is_td() {
            let (index, vector) = (usize::try_from(intid >> 8).ok()?, intid & 0xff);
            let messages = self.messages.get(index).filter(|_| index < self.config.vcpu_count && vector >= 32)?;
            if level {
                messages.fetch_or(1 << (vector % 64), Ordering::Relaxed);
            }
            return Some(index);
        }
        self.dist.set_spi(u32::try_from(intid).ok()?, level).ok()
    }
}

/// What a guest does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// Sets x0 and the following registers.
    Set(Vec<u64>),
    /// HVC #0 or SMC #0.
    Call(Conduit),
    /// Touches memory that its tables do not map; the second time they do.
    Access(Abort),
    /// Waits for an interrupt and has none.
    Wait,
    /// Sends interrupts to these vCPUs.
    Signal(VcpuMask),
    /// Anything else that ends a run of instructions.
    Leave(Exit),
}

/// An exception that the hypervisor gave the guest. Its handler goes on after the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// Synchronous external abort.
    Abort {
        /// Of an instruction fetch.
        fetch: bool,
        /// Of a write.
        write: bool,
    },
    /// Undefined instruction.
    Undefined,
    /// Virtualization exception, of a TD.
    Virtualization(VeInfo),
    /// A second virtualization exception before the guest has asked about the first.
    DoubleFault,
}

/// One vCPU. Only the CPU that runs it touches it.
#[derive(Debug)]
pub struct Vcpu {
    /// Program, first instruction at `entry`.
    pub program: Vec<Instruction>,
    /// Exceptions so far.
    pub exceptions: Vec<Exception>,
    /// When its timer wants it to run.
    pub deadline: u64,
    /// Its calls are tried the quick way first, as on a real machine.
    pub quick: bool,
    x: [u64; 31],
    entry: u64,
    pc: u64,
    index: usize,
    /// Address of the instruction that was executed last.
    last: u64,
    /// The access at `last` has faulted already.
    faulted: bool,
    awaited: Option<MmioAccess>,
    kicks: VcpuMask,
    off: bool,
    loaded: bool,
    td: bool,
    ve: Option<VeInfo>,
    /// The access that [`Self::inject_abort`] would be about.
    abort: Option<Abort>,
}

impl Vcpu {
    /// vCPU `index` in reset state.
    pub fn new(index: usize, _: [Pfn; VCPU_FRAMES]) -> Self {
        Self {
            program: Vec::new(),
            exceptions: Vec::new(),
            deadline: u64::MAX,
            quick: true,
            x: [0; 31],
            entry: 0,
            pc: 0,
            index,
            last: 0,
            faulted: false,
            awaited: None,
            kicks: 0,
            off: false,
            loaded: false,
            td: false,
            ve: None,
            abort: None,
        }
    }

    /// Reset, and then start at `entry` with `argument` in x0, or as a TD does. The vCPU is not loaded.
    pub fn start(&mut self, vm: &Vm, entry: u64, argument: u64) {
        assert!(!self.loaded, "a vCPU is started while it runs");
        *self = Self { entry, pc: entry, td: vm.is_td(), ..Self::new(self.index, []) };
        if self.td {
            (self.x[RCX], self.x[R8]) = (argument, argument);
            (self.x[RBX], self.x[RSI]) = (super::machine::ipa_bits(), self.index as u64);
        } else {
            self.x[RAX] = argument;
        }
    }

    /// The guest has switched the vCPU off.
    pub fn switch_off(&mut self) {
        self.off = true;
    }

    /// Register x`n`; zero beyond x30.
    pub fn x(&self, n: usize) -> u64 {
        self.x.get(n).copied().unwrap_or(0)
    }

    /// Sets register x`n`.
    pub fn set_x(&mut self, n: usize, value: u64) {
        if let Some(register) = self.x.get_mut(n) {
            *register = value;
        }
    }

    /// Goes past the instruction of the last exit: what traps returns at itself, an HVC past itself.
    pub fn finish_call(&mut self, conduit: Conduit) {
        if conduit != Conduit::Hvc {
            self.pc = self.pc.wrapping_add(4);
        }
    }

    /// Executes the call of the last exit again at the next entry.
    pub fn repeat_call(&mut self, conduit: Conduit) {
        if conduit == Conduit::Hvc {
            self.pc = self.pc.wrapping_sub(4);
        }
    }

    /// Gives the guest a synchronous external abort for the access of the last exit.
    pub fn inject_abort(&mut self, fetch: bool, write: bool) {
        if !self.td {
            return self.take(Exception::Abort { fetch, write });
        }
        let gpa = self.abort.map_or(0, |abort| abort.address);
        // Read, write, fetch (SDM volume 3, "Exit qualification for EPT violations").
        let qualification = u64::from(!write && !fetch) | u64::from(write) << 1 | u64::from(fetch) << 2;
        let ve = VeInfo { reason: EPT_VIOLATION, qualification, gpa, ..VeInfo::default() };
        if self.ve.is_some() {
            return self.take(Exception::DoubleFault);
        }
        self.ve = Some(ve);
        self.take(Exception::Virtualization(ve));
    }

    /// What the last virtualization exception was about; asking makes room for the next.
    pub fn take_ve(&mut self) -> Option<VeInfo> {
        self.ve.take()
    }

    /// Makes the last virtualization exception one that this machine does not raise by itself.
    pub fn set_ve(&mut self, ve: VeInfo) {
        self.ve = Some(ve);
    }

    /// Whether there is no interrupt for the guest to take; looking takes them.
    pub fn is_idle(&self, vm: &Vm) -> bool {
        vm.messages[self.index].swap(0, Ordering::Relaxed) == 0
    }

    /// Gives the guest an undefined-instruction exception.
    pub fn inject_undefined(&mut self) {
        self.take(Exception::Undefined);
    }

    fn take(&mut self, exception: Exception) {
        self.exceptions.push(exception);
        self.pc = self.last.wrapping_add(4);
    }

    /// Ends the device access of the last exit: a write is done, a read waits for [`Self::complete_read`].
    pub fn finish_access(&mut self, access: MmioAccess) {
        if access.value.is_none() {
            self.awaited = Some(access);
        }
        self.pc = self.pc.wrapping_add(4);
    }

    /// Gives the value of a device read that the host answered; nothing when none is awaited.
    pub fn complete_read(&mut self, value: u64) {
        if let Some(access) = self.awaited.take() {
            self.set_x(access.rt, syndrome::extend(&access, value));
        }
    }

    /// Whether a device read waits for its value.
    pub fn awaits_read(&self) -> bool {
        self.awaited.is_some()
    }

    /// The vCPUs other than this one that have to look at their interrupts; asking clears them.
    pub fn take_kicks(&mut self) -> VcpuMask {
        core::mem::take(&mut self.kicks) & !(1 << self.index)
    }

    /// The host's counter at which the timer wants this vCPU to run; `u64::MAX` for never. Only while not loaded.
    pub fn deadline(&self, _: &Vm) -> u64 {
        assert!(!self.loaded, "the timer of a running vCPU is not its own");
        self.deadline
    }

    /// Gives this CPU to the vCPU.
    pub fn load(&mut self, vm: &Vm) {
        assert!(!self.loaded, "a vCPU is loaded twice");
        assert!(self.index < vm.config.vcpu_count, "a vCPU of another VM");
        self.loaded = true;
    }

    /// Gives this CPU back to the host.
    pub fn put(&mut self, _: &Vm) {
        assert!(self.loaded, "a vCPU is put away twice");
        self.loaded = false;
    }

    fn call(&mut self, conduit: Conduit, calls: &impl QuickCalls) -> Option<Exit> {
        if conduit == Conduit::Tdcall {
            return if calls.tdcall(self, self.quick) { None } else { Some(Exit::Call(conduit)) };
        }
        if self.quick
            && let Some(answer) = calls.call(conduit, core::array::from_fn(|n| self.x[n]))
        {
            self.x[..4].copy_from_slice(&answer);
            self.pc = self.pc.wrapping_add(4);
            return None;
        }
        if conduit == Conduit::Hvc {
            self.pc = self.pc.wrapping_add(4);
        }
        Some(Exit::Call(conduit))
    }

    /// Runs the guest until it leaves; `calls` answers what it can on the way. A guest at the end of its program waits.
    /// Loaded only.
    pub fn enter<C: QuickCalls>(&mut self, _: &Vm, calls: &C) -> Exit {
        assert!(self.loaded, "a vCPU runs without its registers");
        assert!(!self.off, "a vCPU runs after it has been switched off");
        loop {
            let again = core::mem::replace(&mut self.last, self.pc) == self.pc && self.faulted;
            self.faulted = false;
            let Some(instruction) = self.program.get(self.next()).cloned() else { return Exit::Wait };
            match instruction {
                Instruction::Access(abort) if !again => {
                    self.faulted = true;
                    self.abort = Some(abort);
                    return Exit::Abort(abort);
                }
                Instruction::Call(conduit) => match self.call(conduit, calls) {
                    Some(exit) => return exit,
                    None => continue,
                },
                _ => {}
            }
            self.pc = self.pc.wrapping_add(4);
            match instruction {
                Instruction::Set(values) => self.x[..values.len()].copy_from_slice(&values),
                Instruction::Access(_) | Instruction::Call(_) => {}
                Instruction::Wait => return Exit::Wait,
                Instruction::Signal(mask) => {
                    self.kicks |= mask;
                    return Exit::Handled;
                }
                Instruction::Leave(exit) => {
                    if let Exit::Port(PortAccess { size, value: None, .. }) = exit {
                        let rt = RAX;
                        self.awaited = Some(MmioAccess { size, value: None, rt, sign_extend: false, wide: false });
                    }
                    return exit;
                }
            }
        }
    }

    /// Index of the instruction that comes next.
    pub fn next(&self) -> usize {
        (self.pc.wrapping_sub(self.entry) / 4) as usize
    }

    /// Adds to the end of the program.
    pub fn push(&mut self, instructions: impl IntoIterator<Item = Instruction>) {
        self.program.extend(instructions);
    }

    /// Program counter, an address.
    pub fn pc(&self) -> u64 {
        self.pc
    }
}
