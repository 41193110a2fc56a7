//! A guest's vCPU: its registers, world switch, entry and exit. What the exits mean is in `emulate`.

use super::fetch::Fetch;
use super::inject::{Event, Kind, blocking, vector};
use super::machine::VCPU_FRAMES;
use super::vapic::{Apic, Inbox};
use super::vectors::{self, Entered, Gprs};
use super::vmx::{self, field};
use super::world::{self, World};
use super::{apicv, controls, cpuid, exits, host, percpu, section, timer, tlb};
use crate::{Conduit, Exit, MmioAccess, QuickCalls, VcpuMask, VeInfo, VmConfig};
use guestmem::{Pfn, Space};

/// What all vCPUs of a VM share with the machine.
pub struct Vm {
    pub(super) config: VmConfig,
    /// What is added to the time stamp counter: the same for all vCPUs, so that they see one counter.
    tsc_offset: u64,
    /// Bits of a physical address.
    pub(super) physical_bits: u32,
    inboxes: [Inbox; abi::host::VCPUS_MAX],
}

/// The lowest vector of a device: those below are exceptions' (SDM volume 3, "Exception and Interrupt Vectors").
const FIRST_DEVICE_VECTOR: u8 = 32;

impl Vm {
    /// A VM in reset state. Inlined so that it is made where it is to stay, as on the other machine.
    #[inline(always)]
    pub fn new(config: VmConfig) -> Self {
        let inboxes = [const { Inbox::new() }; abi::host::VCPUS_MAX];
        let physical_bits = super::machine::ipa_bits() as u32;
        Self { config, tsc_offset: timer::now().wrapping_neg(), physical_bits, inboxes }
    }

    /// Sends a device's interrupt, an edge: `intid` is the vCPU's number << 8 | the vector, 32 to 255. Says which vCPU it
    /// goes to; `None` when there is no such vCPU or vector.
    pub fn set_spi(&self, intid: u64, level: bool) -> Option<usize> {
        let (index, vector) = (usize::try_from(intid >> 8).ok()?, intid as u8);
        let inbox = self.inboxes().get(index).filter(|_| vector >= FIRST_DEVICE_VECTOR)?;
        if level {
            inbox.post(vector);
        }
        Some(index)
    }

    /// Those of the vCPUs that there are.
    pub(super) fn inboxes(&self) -> &[Inbox] {
        &self.inboxes[..self.config.vcpu_count.min(abi::host::VCPUS_MAX)]
    }

    /// Guests' time stamp counter.
    pub(super) fn now(&self) -> u64 {
        self.at(timer::now())
    }

    /// Guests' time stamp counter at a time of [`timer::now`].
    fn at(&self, now: u64) -> u64 {
        now.wrapping_add(self.tsc_offset)
    }
}

/// Where the value of a read that the host answers has to go.
#[derive(Clone, Copy, Debug)]
enum Awaited {
    /// RAX, so many bytes of it.
    Port(u32),
    Device(MmioAccess),
}

/// One vCPU. Only the CPU that runs it touches it.
pub struct Vcpu {
    pub(super) gprs: Gprs,
    pub(super) index: usize,
    pub(super) apic: Apic,
    pub(super) world: World,
    pub(super) frames: [Pfn; VCPU_FRAMES],
    /// Where it starts at its first load.
    entry: Option<u64>,
    /// The CPU has the VMCS in its launched state.
    launched: bool,
    /// The VMCS has an event for the next entry.
    pub(super) armed: bool,
    /// The CPU it ran on last.
    last_cpu: Option<usize>,
    /// When the host gets this CPU back at the latest, in the guest's time.
    slice: u64,
    /// Primary controls as the VMCS has them.
    pub(super) primary: u32,
    /// The CPU has the APIC: see `apicv`.
    pub(super) has_apicv: bool,
    /// What the next entry delivers.
    pub(super) queued: Option<Event>,
    /// An interrupt that an exception came before.
    pub(super) displaced: Option<Event>,
    /// Faults until nothing was left to do.
    pub(super) dead: bool,
    /// A virtualization exception that the guest has not asked about yet.
    pub(super) ve: Option<VeInfo>,
    /// The EPT violation of the last exit.
    pub(super) violation: VeInfo,
    awaited: Option<Awaited>,
    /// vCPUs that have to look at their interrupts.
    pub(super) kicks: VcpuMask,
    /// How often in a row an instruction could not be read.
    pub(super) unread: u8,
    /// The walk to the last TDCALL.
    pub(super) fetch: Option<Fetch>,
    /// Basic reason of the last exit.
    pub(super) reason: u32,
}

/// So often in a second the host gets a CPU back whatever the guest does. An external interrupt makes a guest leave even
/// with RFLAGS.IF = 0 (SDM volume 3, "Changes to Instruction Behavior in VMX Non-Root Operation"), but Bochs 3.0 keeps one
/// from a guest that was entered like that.
const SLICES: u64 = 100;
/// RFLAGS.RF, RFLAGS.TF.
pub(super) const RESUME: u64 = 1 << 16;
const TRAP: u64 = 1 << 8;
/// Single step in the pending debug exceptions.
const PENDING_STEP: u64 = 1 << 14;
/// CS.L in the access rights, EFER.LMA.
pub(super) const LONG_CODE: u64 = 1 << 13;
pub(super) const LONG_ACTIVE: u64 = 1 << 10;
/// The highest EIP.
const EIP: u64 = 0xffff_ffff;
/// Bytes of TDCALL.
const TDCALL_LENGTH: u64 = exits::TDCALL.len() as u64;

impl Vcpu {
    /// vCPU `index` in reset state. `frames`, zeroed: its VMCS, its extended state, its APIC's registers.
    pub fn new(index: usize, frames: [Pfn; VCPU_FRAMES]) -> Self {
        let [_, ratio, _] = cpuid::clock(timer::frequency());
        Self {
            gprs: Gprs([0; 16]),
            index,
            apic: Apic::new(index, ratio.into(), apicv::page(frames[2])),
            world: World::RESET,
            frames,
            entry: None,
            launched: false,
            armed: false,
            last_cpu: None,
            slice: 0,
            primary: 0,
            has_apicv: false,
            queued: None,
            displaced: None,
            dead: false,
            ve: None,
            violation: VeInfo::default(),
            awaited: None,
            kicks: 0,
            unread: 0,
            fetch: None,
            reason: 0,
        }
    }

    /// Reset, and then start at `entry` with `argument` in RCX and R8, as the TDX module starts one. The vCPU is not
    /// loaded.
    pub fn start(&mut self, vm: &Vm, entry: u64, argument: u64) {
        if let Some(inbox) = vm.inboxes().get(self.index) {
            inbox.reset();
        }
        *self = Self { entry: Some(entry), ..Self::new(self.index, self.frames) };
        // RCX, RDX, RBX, RSI, R8: the argument, CPUID.1.EAX, GPAW, the index, the argument.
        let version = world::native(1, 0).eax;
        let width = super::machine::ipa_bits();
        for (n, value) in [(1, argument), (2, version.into()), (3, width), (6, self.index as u64), (8, argument)] {
            self.gprs.0[n] = value;
        }
    }

    /// No guest of this machine switches a vCPU off.
    pub fn switch_off(&mut self) {}

    /// Register `n` in the order RAX RCX RDX RBX RSP RBP RSI RDI R8 to R15; zero for RSP, which no call uses.
    pub fn x(&self, n: usize) -> u64 {
        self.gprs.0.get(n).copied().unwrap_or(0)
    }

    /// Sets register `n`.
    pub fn set_x(&mut self, n: usize, value: u64) {
        if let Some(register) = self.gprs.0.get_mut(n) {
            *register = value;
        }
    }

    /// Goes past the TDCALL of the last exit.
    #[inline(always)]
    pub fn finish_call(&mut self, _: Conduit) {
        // In 64-bit mode, or it would not be one.
        skip_to(vmx::read(field::GUEST_RIP).wrapping_add(TDCALL_LENGTH));
    }

    /// Executes the call of the last exit again at the next entry, which it does by itself.
    pub fn repeat_call(&mut self, _: Conduit) {}

    /// Gives the guest a virtualization exception for the EPT violation of the last exit.
    pub fn inject_abort(&mut self, _fetch: bool, _write: bool) {
        self.virtualization_exception(self.violation);
    }

    /// Gives the guest an undefined-instruction exception.
    pub fn inject_undefined(&mut self) {
        self.exception(vector::INVALID_OPCODE);
    }

    /// Ends the device access that a call asked for: a write is done, a read waits for [`Self::complete_read`].
    pub fn finish_access(&mut self, access: MmioAccess) {
        if access.value.is_none() {
            self.awaited = Some(Awaited::Device(access));
        }
        skip(TDCALL_LENGTH);
    }

    /// An IN that waits for its value.
    pub(super) fn await_port(&mut self, size: u32) {
        self.awaited = Some(Awaited::Port(size));
    }

    /// Gives the value of a read that the host answered; nothing when none is awaited.
    pub fn complete_read(&mut self, value: u64) {
        match self.awaited.take() {
            Some(Awaited::Port(size)) => self.gprs.0[0] = exits::port_result(self.gprs.0[0], size, value),
            Some(Awaited::Device(access)) => self.set_x(access.rt, value & exits::low_bytes(access.size)),
            None => {}
        }
    }

    /// Whether a read waits for its value.
    pub fn awaits_read(&self) -> bool {
        self.awaited.is_some()
    }

    /// Whether there is no interrupt for the guest to take, were it to take any.
    pub fn is_idle(&self, vm: &Vm) -> bool {
        !self.deliverable(vm) && self.apic.deadline().is_none_or(|deadline| deadline > vm.now())
    }

    /// What the guest may ask after a virtualization exception, once.
    pub fn take_ve(&mut self) -> Option<VeInfo> {
        self.ve.take()
    }

    /// The vCPUs other than this one that have to look at their interrupts; asking clears them.
    pub fn take_kicks(&mut self) -> VcpuMask {
        core::mem::take(&mut self.kicks) & !(1 << self.index)
    }

    /// The host's time stamp counter at which the timer wants this vCPU to run; `u64::MAX` for never.
    pub fn deadline(&self, vm: &Vm) -> u64 {
        self.apic.deadline().map_or(u64::MAX, |deadline| deadline.saturating_add(vm.tsc_offset.wrapping_neg()))
    }

    /// Gives this CPU to the vCPU. The host's registers are put away.
    pub fn load(&mut self, vm: &Vm) {
        let cpu = percpu::this();
        let [vmcs, area] = [self.frames[0].addr(), self.frames[1].addr()];
        if self.entry.is_some() {
            vmx::prepare(vmcs);
            // SAFETY: the vCPU's own frame.
            unsafe { world::reset_area(area) };
        }
        vmx::load(vmcs);
        if self.entry.is_some() || self.last_cpu != Some(cpu.index.get()) {
            // It is the same for as long as the VMCS stays on the CPU.
            vmx::write_host_state();
        }
        if let Some(entry) = self.entry.take() {
            controls::start(entry);
            self.primary = controls::primary();
            vmx::write(field::TSC_OFFSET, vm.tsc_offset);
            vmx::write(field::VPID, self.vpid(vm).into());
        }
        vmx::write(field::EPTP, tlb::eptp(Space::Guest(vm.config.owner)));
        if self.last_cpu.replace(cpu.index.get()) != Some(cpu.index.get()) {
            // What this CPU keeps is from before the vCPU ran elsewhere, or from another that had its number.
            vmx::invvpid(self.vpid(vm));
        }
        // Once for each run: a guest that leaves all the time by itself has no more of the CPU than one that never does.
        self.slice = vm.now().saturating_add(timer::frequency() / SLICES);
        // SAFETY: only this CPU touches its own PerCpu, and nobody else has a reference into it; the areas are the host's
        // on this CPU and the vCPU's, which this or `put` has filled.
        unsafe { world::switch(&mut *cpu.host_world.get(), cpu.xsave.get(), &self.world, area) };
    }

    /// The host's is 1, and 0 is root's.
    fn vpid(&self, vm: &Vm) -> u16 {
        vm.config.owner.get() * abi::host::VCPUS_MAX as u16 + self.index as u16 + 1
    }

    /// Gives this CPU back to the host.
    pub fn put(&mut self, _: &Vm) {
        let cpu = percpu::this();
        // First, because what it writes to memory is in the level 1 cache afterwards, which the switch empties.
        vmx::clear(self.frames[0].addr());
        self.launched = false;
        // SAFETY: as in `load`, which has filled the host's area.
        unsafe { world::switch(&mut self.world, self.frames[1].addr(), &*cpu.host_world.get(), cpu.xsave.get()) };
        host::restore();
    }

    /// Runs the guest until it leaves for something that concerns others; `calls` reads its memory. Loaded only.
    ///
    /// Going round here without a look at what the hypervisor has been told meanwhile is safe: whoever tells it something
    /// sends an interrupt or an NMI afterwards, and both end the next entry.
    pub fn enter<C: QuickCalls>(&mut self, vm: &Vm, calls: &C) -> Exit {
        let (space, rate) = (tlb::index(Space::Guest(vm.config.owner)), world::cpu().timer_rate);
        // In the host's time: there is nothing to deliver before. 0 where that is not known.
        let mut quiet_until = 0_u64;
        let mut first = true;
        loop {
            let mut now = timer::now();
            let left = if now < quiet_until {
                quiet_until - now
            } else {
                // Of exceptions without end, the last of which is queued.
                if self.dead {
                    return Exit::Shutdown;
                }
                let quiet = self.deliver(vm, vm.at(now));
                // The preemption timer may count too slowly to see a guest that leaves all the time.
                if vm.at(now) >= self.slice && !first {
                    return Exit::Interrupt;
                }
                first = false;
                let end = self.apic.deadline().map_or(self.slice, |deadline| deadline.min(self.slice));
                now = timer::now();
                let left = end.saturating_sub(vm.at(now));
                quiet_until = if quiet { now.saturating_add(left) } else { 0 };
                left
            };
            vmx::write(field::PREEMPTION_TIMER, exits::preemption_timer(left, rate));
            // The reason only: the rest of a guest's exit is not for the host that reads the counters.
            section::end(now, self.reason.into());
            // SAFETY: `load` has made this CPU the guest's.
            let entered = unsafe { vectors::enter(&mut self.gprs, self.launched, space) };
            section::begin();
            match entered {
                // An exit takes back what the entry had to deliver (SDM volume 3, "Information for VM Exits That Occur
                // During Event Delivery": the valid bit is cleared).
                Entered::Exit => (self.launched, self.armed) = (true, false),
                // An NMI came first, another CPU's or the host's. What is queued stays.
                Entered::Aborted => return if host::is_wanted() { Exit::Interrupt } else { Exit::Handled },
                Entered::Failed => {
                    // Its own VMCS is what the CPU does not take: nobody else has to end with it.
                    log::error!("VM {}: entry error {}", vm.config.owner.get(), vmx::read(field::INSTRUCTION_ERROR));
                    self.dead = true;
                    return Exit::Shutdown;
                }
            }
            if self.is_at_tdcall() {
                (self.reason, self.queued, self.unread) = (vmx::reason::EXCEPTION_OR_NMI, None, 0);
                if calls.tdcall(self, true) {
                    continue;
                }
                return Exit::Call(Conduit::Tdcall);
            }
            match self.exited(vm, calls) {
                Exit::Call(Conduit::Tdcall) if calls.tdcall(self, true) => {}
                // An NMI means that there is something to look at.
                Exit::Handled if self.reason != vmx::reason::EXCEPTION_OR_NMI => {}
                exit => return exit,
            }
            // So does an interrupt sent to another vCPU.
            if self.kicks != 0 {
                return Exit::Handled;
            }
            // A CPUID or a TDCALL has not changed that there is nothing to deliver: what others send meanwhile comes with an
            // NMI, and the guest's own timer with an exit of its own.
            let unchanged = matches!(self.reason, vmx::reason::CPUID | vmx::reason::EXCEPTION_OR_NMI);
            if !unchanged || self.queued.is_some() {
                quiet_until = 0;
            }
        }
    }

    fn exited<C: QuickCalls>(&mut self, vm: &Vm, calls: &C) -> Exit {
        let reason = vmx::read(field::EXIT_REASON) as u32;
        self.reason = reason & 0xffff;
        if reason & vmx::reason::ENTRY_FAILED != 0 {
            log::error!("VM {} cannot be entered: reason {reason:#x}", vm.config.owner.get());
            self.dead = true;
            return Exit::Shutdown;
        }
        // An event that the exit came in the middle of has to come again.
        self.queued = match vmx::read(field::IDT_VECTORING) as u32 {
            0 => None,
            information => {
                let error = vmx::read(field::IDT_VECTORING_ERROR) as u32;
                let length = vmx::read(field::EXIT_INSTRUCTION_LENGTH) as u32;
                Event::from_exit(information, error, length)
            }
        };
        if self.queued.is_some_and(|event| event.kind == Kind::Nmi) {
            // Its delivery has blocked NMIs, and blocked it would not be delivered.
            vmx::modify(field::GUEST_INTERRUPTIBILITY, blocking::NMI, 0);
        }
        self.handle(vm, calls, self.reason)
    }
}

/// Whether the loaded guest is in 64-bit mode.
pub(super) fn is_long() -> bool {
    vmx::read(field::GUEST_EFER) & LONG_ACTIVE != 0 && vmx::read(field::GUEST_CS_RIGHTS) & LONG_CODE != 0
}

/// Goes on after an instruction of so many bytes that was carried out for the loaded guest, as the CPU would.
pub(super) fn skip(length: u64) {
    let from = vmx::read(field::GUEST_RIP);
    let to = from.wrapping_add(length);
    // Outside of 64-bit mode RIP has 32 bits; a higher one is 64-bit mode's.
    let wraps = (from ^ to) > EIP && !is_long();
    skip_to(if wraps { to & EIP } else { to });
}

/// Goes on at `next`, behind an instruction that was carried out for the loaded guest.
#[inline(always)]
fn skip_to(next: u64) {
    vmx::write(field::GUEST_RIP, next);
    let blocked = vmx::read(field::GUEST_INTERRUPTIBILITY);
    if blocked & (blocking::STI | blocking::MOV_SS) != 0 {
        vmx::write(field::GUEST_INTERRUPTIBILITY, blocked & !(blocking::STI | blocking::MOV_SS));
    }
    let flags = vmx::read(field::GUEST_RFLAGS);
    if flags & (RESUME | TRAP) != 0 {
        vmx::write(field::GUEST_RFLAGS, flags & !RESUME);
        if flags & TRAP != 0 {
            vmx::modify(field::GUEST_PENDING_DEBUG, 0, PENDING_STEP);
        }
    }
}
