//! A guest's vCPU: world switch and the exits that need nobody but this file.

use super::features::{self, Feature};
use super::idregs::{self, Reader};
use super::percpu::{self, PerCpu};
use super::sysreg::{isb, mrs, msr};
use super::syndrome::{self, Fault, SysregAccess, class, ec};
use super::timer::{self, GuestTimer};
use super::vectors::{self, GuestRegs};
use super::vgic::{self, CpuIf, Dist, ListRegs, VIRTUAL_TIMER_INTID};
use super::world::{self, El1State, FpState};
use super::{gic, inject, section, tlb};
use crate::{Abort, Conduit, Exit, MmioAccess, QuickCalls, VcpuMask, VeInfo, VmConfig};
use core::sync::atomic::{AtomicU64, Ordering};
use super::machine::VCPU_FRAMES;
use guestmem::{Pfn, Space};

/// What all vCPUs of a VM share with the machine.
pub struct Vm {
    config: VmConfig,
    /// CNTVOFF_EL2: the same for all vCPUs, so that they see one counter.
    counter_offset: AtomicU64,
    /// No two VMs have the same: a VMID is used again, and a CPU must not take one VM for another.
    serial: u64,
    dist: Dist,
    cpus: [CpuIf; abi::host::VCPUS_MAX],
}

static SERIAL: AtomicU64 = AtomicU64::new(1);

impl Vm {
    /// A VM in reset state. Inlined so that it is made where it is to stay: it is large.
    #[inline(always)]
    pub fn new(config: VmConfig) -> Self {
        let vm = Self {
            config,
            counter_offset: AtomicU64::new(timer::now()),
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            dist: Dist::new(),
            cpus: [const { CpuIf::new() }; abi::host::VCPUS_MAX],
        };
        vm.dist.reset(vm.config.vcpu_count);
        vm
    }

    /// Sets the level of a device interrupt and says which vCPU it goes to; `None` when `intid` is no SPI of a guest.
    pub fn set_spi(&self, intid: u64, level: bool) -> Option<usize> {
        self.dist.set_spi(u32::try_from(intid).ok()?, level).ok()
    }

    /// Whether vCPU `index` has an interrupt to take.
    pub fn deliverable(&self, index: usize) -> bool {
        self.cpus.get(index).is_some_and(|cpu| vgic::deliverable(&self.dist, cpu, index))
    }

    /// Whether `address` is in the interrupt controller's frames.
    fn in_gic(&self, address: u64) -> bool {
        let offset = address ^ self.config.alias;
        let redistributors = vgic::REDIST_SIZE * self.config.vcpu_count as u64;
        let within = |base: u64, size: u64| offset.checked_sub(base).is_some_and(|at| at < size);
        within(self.config.gicd_base, vgic::DIST_SIZE) || within(self.config.gicr_base, redistributors)
    }

    /// A guest's access to its interrupt controller; `None` when `address` is not in it.
    fn gic_access(&self, abort: &Abort) -> Option<(MmioAccess, vgic::Access)> {
        // A realm reaches devices through the shared half of its address space only.
        let offset = abort.address ^ self.config.alias;
        let access = abort.access?;
        if let Some(at) = offset.checked_sub(self.config.gicd_base).filter(|at| *at < vgic::DIST_SIZE) {
            return Some((access, vgic::dist_access(&self.dist, at, access.size, access.value)));
        }
        let at = offset.checked_sub(self.config.gicr_base)?;
        let index = usize::try_from(at / vgic::REDIST_SIZE).ok()?;
        if index >= self.config.vcpu_count {
            return None;
        }
        let (cpu, count, within) = (&self.cpus[index], self.config.vcpu_count, at % vgic::REDIST_SIZE);
        Some((access, vgic::redist_access(cpu, index, count, within, access.size, access.value)))
    }
}

/// One vCPU. Only the CPU that runs it touches it.
pub struct Vcpu {
    regs: GuestRegs,
    index: usize,
    el1: El1State,
    fp: FpState,
    fp_live: bool,
    lists: ListRegs,
    timer: GuestTimer,
    /// The timer's interrupt line as the guest's interrupt controller was told.
    timer_line: bool,
    /// The list registers have to be filled again before the next entry.
    stale_lists: bool,
    /// Where the value of an MMIO read that the host answers has to go.
    awaited: Option<MmioAccess>,
    /// vCPUs that have to look at their interrupts.
    kicks: VcpuMask,
    /// Switched off by the guest: its interrupts have to go back when it is next put away.
    off: bool,
}

/// HCR_EL2 while a guest runs (Arm ARM D19.2.48): VM, SWIO, FMO, IMO, AMO, FB, BSU inner shareable, TWI, TID3, TSC,
/// TIDCP, TACR, TSW, RW, TLOR, TERR, APK, API, TID5.
const HCR_GUEST: u64 = 1
    | 1 << 1
    | 0b111 << 3
    | 1 << 9
    | 1 << 10
    | 1 << 13
    | 1 << 18
    | 0b1111 << 19
    | 1 << 31
    | 0b11 << 35
    | 0b11 << 40
    | 1 << 58;
/// HCR_EL2.FWB.
pub(super) const HCR_FWB: u64 = 1 << 46;
/// MDCR_EL2 while a guest runs, besides what the host has: TDRA, TDOSA, TDA, TPM, TPMCR.
const MDCR_GUEST: u64 = 0b111 << 9 | 0b11 << 5;
/// CNTHCTL_EL2 (E2H = 0): the guest reads the counter; its physical timer traps.
const CNTHCTL_GUEST: u64 = 1;
pub(super) const CNTHCTL_HOST: u64 = 0b11;

impl Vcpu {
    /// vCPU `index` in reset state.
    pub fn new(index: usize, _: [Pfn; VCPU_FRAMES]) -> Self {
        Self {
            regs: GuestRegs { x: [0; 31], pc: 0, pstate: 0x3c5, esr: 0, far: 0, hpfar: 0 },
            index,
            el1: El1State::reset(),
            fp: FpState::new(),
            fp_live: false,
            lists: ListRegs::new(percpu::this().interface.get().0),
            timer: GuestTimer::default(),
            timer_line: false,
            stale_lists: false,
            awaited: None,
            kicks: 0,
            off: false,
        }
    }

    /// Reset, and then start at `entry` with `argument` in x0. The vCPU is not loaded.
    pub fn start(&mut self, vm: &Vm, entry: u64, argument: u64) {
        let cpu = &vm.cpus[self.index];
        let kicks = vgic::retire(&vm.dist, cpu, self.index, &mut self.lists);
        cpu.reset();
        *self = Self { kicks, ..Self::new(self.index, []) };
        self.regs.pc = entry;
        self.regs.x[0] = argument;
    }

    /// The guest has switched the vCPU off.
    pub fn switch_off(&mut self) {
        self.off = true;
    }

    /// Register x`n`; zero beyond x30.
    pub fn x(&self, n: usize) -> u64 {
        self.regs.x.get(n).copied().unwrap_or(0)
    }

    /// Sets register x`n`.
    pub fn set_x(&mut self, n: usize, value: u64) {
        if let Some(register) = self.regs.x.get_mut(n) {
            *register = value;
        }
    }

    /// Goes past the instruction of the last exit: what traps returns at itself, an HVC past itself.
    pub fn finish_call(&mut self, conduit: Conduit) {
        if conduit != Conduit::Hvc {
            self.regs.pc = self.regs.pc.wrapping_add(4);
        }
    }

    /// Executes the call of the last exit again at the next entry.
    pub fn repeat_call(&mut self, conduit: Conduit) {
        if conduit == Conduit::Hvc {
            self.regs.pc = self.regs.pc.wrapping_sub(4);
        }
    }

    /// Gives the guest a synchronous external abort for the access of the last exit.
    pub fn inject_abort(&mut self, fetch: bool, write: bool) {
        inject::external_abort(&mut self.regs.pc, &mut self.regs.pstate, self.regs.far, fetch, write);
    }

    /// Gives the guest an undefined-instruction exception.
    pub fn inject_undefined(&mut self) {
        inject::undefined(&mut self.regs.pc, &mut self.regs.pstate);
    }

    /// Ends the device access of the last exit: a write is done, a read waits for [`Self::complete_read`].
    pub fn finish_access(&mut self, access: MmioAccess) {
        if access.value.is_none() {
            self.awaited = Some(access);
        }
        self.regs.pc = self.regs.pc.wrapping_add(4);
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

    /// Whether there is no interrupt for the guest to take.
    pub fn is_idle(&self, vm: &Vm) -> bool {
        !vm.deliverable(self.index)
    }

    /// No guest of this machine gets virtualization exceptions.
    pub fn take_ve(&mut self) -> Option<VeInfo> {
        None
    }

    /// Posts a software-generated interrupt to vCPU `target`.
    fn post_sgi(&mut self, vm: &Vm, value: u64) {
        let request = vgic::sgi_targets(value, self.index, vm.config.vcpu_count);
        for (index, cpu) in vm.cpus.iter().enumerate() {
            if request.mask >> index & 1 != 0 {
                cpu.post_sgi(request.intid);
            }
        }
        self.kicks |= request.mask;
        self.stale_lists = true;
    }

    /// The vCPUs other than this one that have to look at their interrupts; asking clears them.
    pub fn take_kicks(&mut self) -> VcpuMask {
        core::mem::take(&mut self.kicks) & !(1 << self.index)
    }

    /// The host's CNTVCT at which the timer wants this vCPU to run; `u64::MAX` for never. Only while not loaded.
    pub fn deadline(&self, vm: &Vm) -> u64 {
        self.timer.deadline(vm.counter_offset.load(Ordering::Relaxed))
    }

    /// Gives this CPU to the vCPU. The host's registers are put away.
    pub fn load(&mut self, vm: &Vm) {
        let cpu = percpu::this();
        // SAFETY: only this CPU touches its own PerCpu, and nobody else has a reference into it.
        unsafe { &mut *cpu.host_el1.get() }.save();
        cpu.host_return.set((mrs!("elr_el2"), mrs!("spsr_el2")));
        if features::has(Feature::Pmu) {
            // The host's counters must not count, and so show, what the guest does.
            cpu.host_pmcr.set(mrs!("pmcr_el0"));
            msr!("pmcr_el0", cpu.host_pmcr.get() & !1);
        }
        self.el1.restore();
        msr!("vmpidr_el2", 1 << 31 | self.index as u64);
        msr!("vttbr_el2", tlb::vttbr(Space::Guest(vm.config.owner)));
        let forced = if features::has(Feature::ForcedWriteBack) { HCR_FWB } else { 0 };
        msr!("hcr_el2", HCR_GUEST | forced);
        msr!("cptr_el2", world::cptr_guest(false));
        msr!("mdcr_el2", MDCR_GUEST | cpu.mdcr.get());
        msr!("cnthctl_el2", CNTHCTL_GUEST);
        msr!("vbar_el2", vectors::guest_vectors as *const () as u64);
        isb();
        self.forget_other_vcpu(cpu, vm);
        timer::to_guest(cpu, &self.timer, vm.counter_offset.load(Ordering::Relaxed));
        gic::borrow_ppis(cpu, self.timer_line);
        self.update_timer_line(vm, cpu);
        self.kicks |= vgic::fill(&vm.dist, &vm.cpus[self.index], self.index, &mut self.lists);
        gic::load(&self.lists);
        self.stale_lists = false;
    }

    fn forget_other_vcpu(&self, cpu: &PerCpu, vm: &Vm) {
        let last = &cpu.last_vcpu[usize::from(vm.config.owner.get()).min(abi::host::VMS_MAX)];
        let here = vm.serial << 8 | (self.index as u64 + 1);
        if last.get() != here {
            tlb::flush_local_stage1();
            last.set(here);
        }
    }

    /// Gives this CPU back to the host.
    pub fn put(&mut self, vm: &Vm) {
        let cpu = percpu::this();
        self.update_timer_line(vm, cpu);
        timer::to_host(cpu, &mut self.timer);
        gic::return_ppis(cpu);
        gic::save(cpu, &mut self.lists);
        let settle = if self.off { vgic::retire } else { vgic::drain };
        self.kicks |= settle(&vm.dist, &vm.cpus[self.index], self.index, &mut self.lists);
        if self.fp_live {
            // SAFETY: this CPU's own save area, which `enter` filled when the guest first used FP.
            unsafe { world::fp_to_host(cpu.host_fp.get() as *mut u8, &mut self.fp) };
            self.fp_live = false;
        }
        self.el1.save();
        // SAFETY: as in `load`.
        unsafe { &*cpu.host_el1.get() }.restore();
        if features::has(Feature::Pmu) {
            msr!("pmcr_el0", cpu.host_pmcr.get());
        }
        super::host::restore_controls(cpu);
        let (elr, spsr) = cpu.host_return.get();
        msr!("elr_el2", elr);
        msr!("spsr_el2", spsr);
        isb();
    }

    /// Runs the guest until it leaves; `calls` answers what it can on the way. Loaded only.
    pub fn enter<C: QuickCalls>(&mut self, vm: &Vm, calls: &C) -> Exit {
        if self.stale_lists {
            self.refill(vm);
        }
        // The class only: the rest of a guest's syndrome is not for the host that reads the counters.
        section::end(class(self.regs.esr) << 26);
        // SAFETY: `load` has made this CPU the guest's.
        let left = unsafe { vectors::enter_guest(&mut self.regs, quick_call::<C>, calls) };
        section::begin();
        match left {
            0 => self.synchronous(vm),
            1 => self.interrupted(vm),
            _ => Exit::SError { syndrome: self.regs.esr },
        }
    }

    fn drain_loaded(&mut self, vm: &Vm) {
        gic::read_lists(percpu::this(), &mut self.lists);
        self.kicks |= vgic::drain(&vm.dist, &vm.cpus[self.index], self.index, &mut self.lists);
        self.stale_lists = true;
    }

    fn refill(&mut self, vm: &Vm) {
        let cpu = percpu::this();
        gic::read_lists(cpu, &mut self.lists);
        self.kicks |= vgic::fill(&vm.dist, &vm.cpus[self.index], self.index, &mut self.lists);
        gic::write_lists(cpu, &self.lists);
        self.stale_lists = false;
    }

    fn interrupted(&mut self, vm: &Vm) -> Exit {
        gic::answer(&percpu::this().doorbell);
        self.update_timer_line(vm, percpu::this());
        if gic::maintenance() {
            self.stale_lists = true;
            // What the guest has done with its timer shows only now that it has ended the interrupt.
            self.refill(vm);
        }
        isb();
        if gic::interrupt_pending() { Exit::Interrupt } else { Exit::Handled }
    }

    /// Passes the timer's output on to the guest's interrupt controller. While it is high, the physical interrupt is
    /// disabled: it is a level that would otherwise come back at once.
    fn update_timer_line(&mut self, vm: &Vm, cpu: &PerCpu) {
        let line = timer::output();
        if line != self.timer_line {
            self.timer_line = line;
            vm.cpus[self.index].set_ppi(VIRTUAL_TIMER_INTID, line);
            gic::set_timer_interrupt(cpu, !line);
            self.stale_lists = true;
        }
    }

    fn synchronous(&mut self, vm: &Vm) -> Exit {
        let esr = self.regs.esr;
        match class(esr) {
            // An immediate other than zero is nobody's call (DEN0028 section 2.9).
            ec::HVC if esr & 0xffff == 0 => Exit::Call(Conduit::Hvc),
            ec::SMC if esr & 0xffff == 0 => Exit::Call(Conduit::Smc),
            ec::SMC | ec::HVC => {
                self.set_x(0, u64::MAX);
                self.finish_call(if class(esr) == ec::SMC { Conduit::Smc } else { Conduit::Hvc });
                Exit::Handled
            }
            ec::FP => {
                // SAFETY: this CPU's own save area.
                unsafe { world::fp_to_guest(percpu::this().host_fp.get() as *mut u8, &self.fp) };
                self.fp_live = true;
                Exit::Handled
            }
            ec::WFX => self.wait(vm, esr),
            ec::SYSREG => self.system_register(vm, syndrome::sysreg(esr)),
            ec::DATA_ABORT | ec::INSTRUCTION_ABORT => self.abort(vm),
            _ => {
                self.inject_undefined();
                Exit::Refused
            }
        }
    }

    fn wait(&mut self, vm: &Vm, esr: u64) -> Exit {
        self.regs.pc = self.regs.pc.wrapping_add(4);
        // Bit 0: WFE, which never has to wait.
        if esr & 1 != 0 {
            return Exit::Handled;
        }
        self.update_timer_line(vm, percpu::this());
        self.refill(vm);
        if self.lists.lr.iter().any(|lr| lr & 1 << 62 != 0) || vm.deliverable(self.index) {
            return Exit::Handled;
        }
        Exit::Wait
    }

    fn abort(&mut self, vm: &Vm) -> Exit {
        let (esr, far, hpfar) = (self.regs.esr, self.regs.far, self.regs.hpfar);
        let fetch = class(esr) == ec::INSTRUCTION_ABORT;
        match syndrome::fault(esr) {
            Fault::Translation => {}
            // The only right that a mapping lacks is execution, in the shared half.
            Fault::Permission | Fault::Other => {
                self.inject_abort(fetch, esr & 1 << 6 != 0);
                return Exit::Refused;
            }
        }
        let abort = syndrome::abort(esr, far, hpfar, |rt| self.x(rt));
        if vm.in_gic(abort.address) {
            // What the guest reads of its own interrupts, and clears, may be in its list registers.
            self.drain_loaded(vm);
        }
        let Some((access, done)) = vm.gic_access(&abort) else { return Exit::Abort(abort) };
        if access.value.is_none() {
            self.set_x(access.rt, syndrome::extend(&access, done.value));
        }
        self.regs.pc = self.regs.pc.wrapping_add(4);
        self.kicks |= done.kick;
        self.stale_lists = true;
        Exit::Handled
    }

    fn system_register(&mut self, vm: &Vm, access: SysregAccess) -> Exit {
        let value = match access.register {
            // ID registers.
            (3, 0, 0, crm @ 1..=7, op2) if access.read => Some(idregs::read(crm, op2, Reader::Guest)),
            // ICC_SGI1R_EL1, ICC_ASGI1R_EL1, ICC_SGI0R_EL1.
            (3, 0, 12, 11, 5..=7) if !access.read => {
                let value = if access.rt == 31 { 0 } else { self.x(access.rt) };
                self.post_sgi(vm, value);
                Some(0)
            }
            // ICC_SRE_EL1: system registers, for good. The register is the CPU's, so a guest may not write it.
            (3, 0, 12, 12, 5) => Some(7),
            // OSLSR_EL1: the OS lock is implemented and open.
            (2, 0, 1, 1, 4) if access.read => Some(8),
            // Debug and trace registers, performance monitors, physical timer, error records, ACTLR_EL1, LORegions.
            (2, ..)
            | (3, 0 | 3, 9, 12..=14, _)
            | (3, 3, 14, 8..=15, _)
            | (3, 3, 14, 2, _)
            | (3, 0, 5, 3..=5, _)
            | (3, 0, 1, 0, 1)
            | (3, 0, 10, 4, _) => Some(0),
            // Cache maintenance by set and way: all memory of a guest is coherent, so there is nothing to do.
            (1, 0, 7, 6 | 10 | 14, 2) => Some(0),
            _ => None,
        };
        let Some(value) = value else {
            self.inject_undefined();
            return Exit::Refused;
        };
        if access.read {
            self.set_x(access.rt, value);
        }
        self.regs.pc = self.regs.pc.wrapping_add(4);
        Exit::Handled
    }
}

/// Called by the vectors for HVC and SMC.
extern "C" fn quick_call<C: QuickCalls>(regs: &mut GuestRegs, esr: u64, calls: &C) -> u64 {
    let start = timer::now();
    let conduit = if class(esr) == ec::SMC { Conduit::Smc } else { Conduit::Hvc };
    let [x0, x1, x2, x3, ..] = regs.x;
    let answer = if esr & 0xffff == 0 { calls.call(conduit, [x0, x1, x2, x3]) } else { None };
    let Some(answer) = answer else { return 0 };
    regs.x[..4].copy_from_slice(&answer);
    if conduit == Conduit::Smc {
        msr!("elr_el2", mrs!("elr_el2").wrapping_add(4));
    }
    section::took(timer::now().wrapping_sub(start), class(esr) << 26);
    1
}

