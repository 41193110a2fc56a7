//! What a guest's exits mean: what is done for it, what it is refused, and what is left to the hypervisor.

use super::exits::{self, CR0_SHADOWED, CR4_OSXSAVE, ControlAccess, Io};
use super::fetch::{Fetch, Mode};
use super::inject::{Event, Kind, VALID, blocking, vector};
use super::msr::{self, Written, number};
use super::vapic::{self, GeneralProtection};
use super::vcpu::{Vcpu, Vm, is_long, skip};
use super::vmx::{self, field, reason};
use super::walk::Miss;
use super::{cpuid, host, timer, world};
use crate::{Abort, Conduit, Exit, QuickCalls, VeInfo};

/// Exit reason of a virtualization exception for an EPT violation, and for an I/O instruction.
const VE_EPT_VIOLATION: u32 = reason::EPT_VIOLATION;
const VE_IO: u32 = reason::IO;
/// Bit 12 of the interruption information: IRET had ended the blocking of NMIs before it faulted.
const NMI_UNBLOCKED: u32 = 1 << 12;
/// Interruption information of an undefined-instruction exception: the commonest, because TDCALL is one.
const UNDEFINED: u32 = VALID | 3 << 8 | vector::INVALID_OPCODE as u32;
/// DR6: what a debug exception reports. DR7.GD.
const DR6_CAUSES: u64 = 0xf | 0b11 << 13;
const DR7_DETECT: u64 = 1 << 13;
/// IA32_MCG_STATUS, whose MCIP bit makes the next machine check stop the CPU.
const MCG_STATUS: u32 = 0x17a;
/// So often in a row an instruction that cannot be read is tried again.
const UNREAD_MOST: u8 = 100;

/// What is at RIP.
enum Instruction {
    Tdcall,
    Other,
    /// Its page or its tables are being moved: the CPU has to try again.
    Unknown,
}

impl Vcpu {
    /// Whether the exit is for a TDCALL that is found where the last one was: the commonest of all, told by a few looks. If so,
    /// it is one that the guest may make, and the exit was not in the middle of anything else.
    #[inline(always)]
    pub(super) fn is_at_tdcall(&self) -> bool {
        vmx::read(field::EXIT_REASON) as u32 == reason::EXCEPTION_OR_NMI
            // Where no event was being delivered only the valid bit is defined.
            && vmx::read(field::EXIT_INTERRUPTION) as u32 ^ UNDEFINED | vmx::read(field::IDT_VECTORING) as u32 & VALID == 0
            && self.fetch.as_ref().is_some_and(Fetch::finds_tdcall)
    }

    /// One exit.
    pub(super) fn handle<C: QuickCalls>(&mut self, vm: &Vm, calls: &C, reason: u32) -> Exit {
        let done = match reason {
            reason::EXCEPTION_OR_NMI => return self.exception_or_nmi(vm, calls),
            // The interrupt is not acknowledged: the host takes it when it has the CPU again. INIT and SIPI are not for a
            // guest's CPU either.
            reason::EXTERNAL_INTERRUPT | reason::INIT | reason::SIPI => return Exit::Interrupt,
            reason::TRIPLE_FAULT => {
                self.dead = true;
                return Exit::Shutdown;
            }
            reason::INTERRUPT_WINDOW | reason::NMI_WINDOW => return Exit::Handled,
            // The guest's own timer, or the end of its slice.
            reason::PREEMPTION_TIMER if self.apic.deadline().is_some_and(|deadline| deadline <= vm.now()) => {
                return Exit::Handled;
            }
            reason::PREEMPTION_TIMER => return Exit::Interrupt,
            reason::HLT => return self.halt(vm),
            reason::EPT_VIOLATION => return self.violation(),
            reason::EPT_MISCONFIGURATION => {
                panic!("EPT misconfiguration at {:#x}", vmx::read(field::GUEST_PHYSICAL_ADDRESS))
            }
            reason::IO => return self.port(),
            // Only SEAM CPUs have this exit; its length is that of the other way.
            reason::TDCALL => return self.tdcall(&Mode::read()),
            reason::CPUID => self.cpuid(vm),
            reason::RDMSR => self.read_msr(vm),
            reason::WRMSR => self.write_msr(vm),
            reason::CONTROL_REGISTER => return self.control_register(),
            reason::XSETBV => self.xsetbv(),
            // Of the registers that the CPU writes only this one can exit; the instruction is done (SDM volume 3, "APIC-Write
            // VM Exits", "Self-IPI Virtualization").
            reason::APIC_WRITE => {
                self.apic.refuse_self_ipi(vm.inboxes());
                return Exit::Handled;
            }
            // All memory of a guest is coherent.
            reason::INVD | reason::WBINVD => Ok(()),
            reason::RDPMC | reason::TASK_SWITCH => Err(GeneralProtection),
            _ => {
                self.inject_undefined();
                return Exit::Refused;
            }
        };
        self.finish(done)
    }

    /// Goes past the instruction, or refuses it.
    fn finish(&mut self, done: Result<(), GeneralProtection>) -> Exit {
        match done {
            Ok(()) => {
                skip(vmx::read(field::EXIT_INSTRUCTION_LENGTH));
                Exit::Handled
            }
            Err(GeneralProtection) => {
                self.exception(vector::GENERAL_PROTECTION);
                Exit::Refused
            }
        }
    }

    fn exception_or_nmi<C: QuickCalls>(&mut self, vm: &Vm, calls: &C) -> Exit {
        let information = vmx::read(field::EXIT_INTERRUPTION) as u32;
        if information == UNDEFINED {
            return self.invalid_opcode(vm, calls);
        }
        let error = vmx::read(field::EXIT_ERROR_CODE) as u32;
        let length = vmx::read(field::EXIT_INSTRUCTION_LENGTH) as u32;
        let Some(event) = Event::from_exit(information, error, length) else { return Exit::Handled };
        if event.kind == Kind::Nmi {
            // Another CPU's, which only had to make the guest leave, or the host's.
            host::nmi_exit();
            return if host::is_wanted() { Exit::Interrupt } else { Exit::Handled };
        }
        if information & NMI_UNBLOCKED != 0 {
            self.block_nmis();
        }
        match (event.kind, event.vector) {
            (Kind::Hardware, vector::INVALID_OPCODE) => self.invalid_opcode(vm, calls),
            (Kind::Hardware, vector::MACHINE_CHECK) => {
                // SAFETY: a CPU with machine checks has the register; clearing it says that this one has been noticed.
                unsafe { vmx::wrmsr(MCG_STATUS, 0) };
                Exit::SError { syndrome: u64::from(information) }
            }
            (_, vector::DEBUG) => {
                let causes = vmx::read(field::EXIT_QUALIFICATION) & DR6_CAUSES;
                world::set_debug_status(0xf, causes);
                vmx::modify(field::GUEST_DR7, DR7_DETECT, 0);
                self.raise(event);
                Exit::Handled
            }
            _ => {
                self.raise(event);
                Exit::Handled
            }
        }
    }

    /// IRET faulted after it had ended the blocking: when it is executed again, NMIs have to be blocked until then.
    fn block_nmis(&self) {
        if self.queued.is_none() {
            vmx::modify(field::GUEST_INTERRUPTIBILITY, 0, blocking::NMI);
        }
    }

    fn invalid_opcode<C: QuickCalls>(&mut self, vm: &Vm, calls: &C) -> Exit {
        let mode = Mode::read();
        let found = if mode.is_long() { self.instruction(vm, &mode, calls) } else { Instruction::Other };
        match found {
            Instruction::Tdcall => {
                self.unread = 0;
                self.tdcall(&mode)
            }
            Instruction::Unknown if self.unread < UNREAD_MOST => {
                self.unread += 1;
                Exit::Handled
            }
            Instruction::Other | Instruction::Unknown => {
                self.unread = 0;
                self.exception(vector::INVALID_OPCODE);
                Exit::Handled
            }
        }
    }

    /// TDCALL, by whichever way it exits: for the kernel in 64-bit mode only.
    fn tdcall(&mut self, mode: &Mode) -> Exit {
        if mode.is_long() && mode.is_kernel() {
            return Exit::Call(Conduit::Tdcall);
        }
        self.exception(vector::GENERAL_PROTECTION);
        Exit::Refused
    }

    /// The guest fetches through its own tables; so does Postern.
    fn instruction<C: QuickCalls>(&mut self, vm: &Vm, mode: &Mode, calls: &C) -> Instruction {
        let (bits, rip) = (vm.physical_bits, vmx::read(field::GUEST_RIP));
        match mode.paging(bits).instruction(rip, |address| calls.read_private(address)) {
            Ok(exits::TDCALL) => {
                self.fetch = Fetch::walk(*mode, bits, rip, vm.config.owner, |address| calls.private_frame(address));
                Instruction::Tdcall
            }
            Ok(_) | Err(Miss::Denied) => Instruction::Other,
            Err(Miss::Absent) => Instruction::Unknown,
        }
    }

    fn halt(&mut self, vm: &Vm) -> Exit {
        skip(vmx::read(field::EXIT_INSTRUCTION_LENGTH));
        // A sender posts and then wakes who waits, so this look comes after all else.
        if self.is_idle(vm) { Exit::Wait } else { Exit::Handled }
    }

    fn violation(&mut self) -> Exit {
        let qualification = vmx::read(field::EXIT_QUALIFICATION);
        let what = exits::ept_violation(qualification);
        if what.iret {
            self.block_nmis();
        }
        let address = vmx::read(field::GUEST_PHYSICAL_ADDRESS);
        self.violation = VeInfo {
            reason: VE_EPT_VIOLATION,
            qualification,
            gla: if what.linear { vmx::read(field::GUEST_LINEAR_ADDRESS) } else { 0 },
            gpa: address,
            length: vmx::read(field::EXIT_INSTRUCTION_LENGTH) as u32,
            info: 0,
        };
        // The only right that a mapping lacks is execution, in the shared half.
        if what.fetch && what.mapped {
            self.virtualization_exception(self.violation);
            return Exit::Refused;
        }
        Exit::Abort(Abort { address, write: what.write, fetch: what.fetch, walk: what.walk, access: None })
    }

    fn port(&mut self) -> Exit {
        let qualification = vmx::read(field::EXIT_QUALIFICATION);
        let length = vmx::read(field::EXIT_INSTRUCTION_LENGTH);
        match exits::io(qualification, self.gprs.0[0]) {
            Io::Single(access) => {
                if access.value.is_none() {
                    self.await_port(access.size);
                }
                skip(length);
                Exit::Port(access)
            }
            Io::String => {
                let gla = vmx::read(field::GUEST_LINEAR_ADDRESS);
                let info = vmx::read(field::EXIT_INSTRUCTION_INFO) as u32;
                self.virtualization_exception(VeInfo {
                    reason: VE_IO,
                    qualification,
                    gla,
                    gpa: 0,
                    length: length as u32,
                    info,
                });
                Exit::Refused
            }
        }
    }

    fn cpuid(&mut self, vm: &Vm) -> Result<(), GeneralProtection> {
        let [function, index] = [0, 1].map(|n| self.gprs.0[n] as u32);
        let reader = cpuid::Reader {
            index: self.index as u32,
            count: vm.config.vcpu_count as u32,
            frequency: timer::frequency(),
            // What takes a look at the VMCS, only where it is asked for.
            osxsave: function == 1 && vmx::read(field::GUEST_CR4) & CR4_OSXSAVE != 0,
            xcr0: self.world.xcr0,
            features: world::cpu().features,
            long: function == 0x8000_0001 && is_long(),
        };
        let leaf = cpuid::guest(&reader, function, index, &world::native);
        for (n, value) in [(0, leaf.eax), (3, leaf.ebx), (1, leaf.ecx), (2, leaf.edx)] {
            self.gprs.0[n] = value.into();
        }
        Ok(())
    }

    fn read_msr(&mut self, vm: &Vm) -> Result<(), GeneralProtection> {
        let number = self.x(1) as u32;
        let value = if vapic::is_register(number) {
            self.apic.read(vm.inboxes(), number, vm.now())?
        } else {
            let debugctl = if number == number::DEBUGCTL { vmx::read(field::GUEST_DEBUGCTL) } else { 0 };
            msr::read(number, self.index == 0, debugctl, &world::cpu().present)?
        };
        self.set_x(0, value & 0xffff_ffff);
        self.set_x(2, value >> 32);
        Ok(())
    }

    fn write_msr(&mut self, vm: &Vm) -> Result<(), GeneralProtection> {
        let number = self.x(1) as u32;
        let value = self.x(2) << 32 | self.x(0) & 0xffff_ffff;
        if vapic::is_register(number) {
            self.kicks |= self.apic.write(vm.inboxes(), number, value, vm.now())?;
            if number == vapic::SVR {
                self.assign_apic();
            }
        } else if let Written::DebugCtl(value) = msr::write(number, value, self.index == 0)? {
            vmx::write(field::GUEST_DEBUGCTL, value);
        }
        Ok(())
    }

    /// A register of an instruction, RSP included.
    fn register(&self, n: usize) -> u64 {
        if n == 4 { vmx::read(field::GUEST_RSP) } else { self.x(n) }
    }

    fn control_register(&mut self) -> Exit {
        let done = match exits::control_access(vmx::read(field::EXIT_QUALIFICATION)) {
            // The bits of the read shadow become what the guest wants, and the CPU does the rest, with all its checks,
            // when it executes the instruction again: it finds no difference that would exit.
            ControlAccess::WriteCr0(n) => {
                vmx::write(field::CR0_SHADOW, self.register(n) & CR0_SHADOWED);
                return Exit::Handled;
            }
            ControlAccess::WriteCr4(n) => match exits::cr4_shadow(self.register(n)) {
                Ok(shadow) => {
                    vmx::write(field::CR4_SHADOW, shadow);
                    return Exit::Handled;
                }
                Err(refused) => Err(refused),
            },
            ControlAccess::WriteCr8(n) => match self.register(n) {
                tpr @ 0..=15 => {
                    self.apic.set_tpr((tpr as u8) << 4);
                    Ok(())
                }
                _ => Err(GeneralProtection),
            },
            ControlAccess::ReadCr8(n) => {
                let tpr = u64::from(self.apic.tpr() >> 4);
                if n == 4 {
                    vmx::write(field::GUEST_RSP, tpr)
                } else {
                    self.set_x(n, tpr)
                }
                Ok(())
            }
            ControlAccess::Other => Err(GeneralProtection),
        };
        self.finish(done)
    }

    fn xsetbv(&mut self) -> Result<(), GeneralProtection> {
        let value = self.x(2) << 32 | self.x(0) & 0xffff_ffff;
        let value = exits::xcr0(self.x(1) as u32, value, world::cpu().features)?;
        world::set_xcr0(self.world.xcr0, value);
        self.world.xcr0 = value;
        Ok(())
    }
}
