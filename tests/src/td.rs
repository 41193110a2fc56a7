//! Calls of a TD, whose arguments and results are in registers that differ from call to call.

use crate::Guest;
use abi::FRAME_SIZE;
use abi::run::exit;
use abi::tdx::{leaf, level, register::*, status, vmcall};
use arch::Conduit;
use arch::machine::Instruction;

/// Number of a TD's general registers.
pub const REGISTERS: usize = 16;
/// The registers that Linux shows its VMM: all that it may but RBP.
pub const LINUX_MASK: u64 = 0xFFCC;

/// What a register holds that a call does not name, so that results that were never written show.
pub const fn rubbish(register: usize) -> u64 {
    0xBAD0_0BAD_0000_0000 | register as u64
}

impl Guest<'_> {
    /// TDCALL, as instructions: registers and their values.
    pub fn td(registers: &[(usize, u64)]) -> [Instruction; 2] {
        let mut all: [u64; REGISTERS] = core::array::from_fn(rubbish);
        for (register, value) in registers {
            all[*register] = *value;
        }
        [Instruction::Set(all.to_vec()), Instruction::Call(Conduit::Tdcall)]
    }

    /// TDVMCALL as Linux makes it, as instructions.
    pub fn td_vm(function: u64, registers: &[(usize, u64)]) -> [Instruction; 2] {
        let fixed = [(RAX, leaf::VP_VMCALL), (RCX, LINUX_MASK), (R10, 0), (R11, function)];
        Self::td(&[&fixed[..], registers].concat())
    }

    /// The registers of a vCPU of a TD.
    pub fn gprs(&self, index: u64) -> [u64; REGISTERS] {
        self.vcpu(index, |vcpu| core::array::from_fn(|n| vcpu.x(n)))
    }

    /// TDCALL of vCPU 0 that needs nothing from the host: the registers after it.
    #[track_caller]
    pub fn tdcall(&self, registers: &[(usize, u64)]) -> [u64; REGISTERS] {
        let why = self.does(0, Self::td(registers));
        assert_eq!(why, exit::WAIT, "TDCALL {registers:#x?} left for the host");
        self.gprs(0)
    }

    /// TDVMCALL of vCPU 0 that needs nothing from the host: the registers after it.
    #[track_caller]
    pub fn tdvmcall(&self, function: u64, registers: &[(usize, u64)]) -> [u64; REGISTERS] {
        let why = self.does(0, Self::td_vm(function, registers));
        assert_eq!(why, exit::WAIT, "TDVMCALL {function:#x} {registers:#x?} left for the host");
        let after = self.gprs(0);
        assert_eq!(after[RAX], status::SUCCESS, "Linux panics when TDG.VP.VMCALL itself fails");
        after
    }

    /// MapGPA, once: R10 and R11.
    #[track_caller]
    pub fn map_gpa(&self, start: u64, size: u64) -> (u64, u64) {
        let after = self.tdvmcall(vmcall::MAP_GPA, &[(R12, start), (R13, size)]);
        (after[R10], after[R11])
    }

    /// MapGPA until it no longer says to try again, as Linux does: R10, and how many calls it took.
    #[track_caller]
    pub fn map_all(&self, start: u64, size: u64) -> (u64, u64) {
        let (mut at, end) = (start, start + size);
        for calls in 1.. {
            match self.map_gpa(at, end - at) {
                (vmcall::RETRY, next) => {
                    assert!(next > at && next < end, "{next:#x} is no progress between {at:#x} and {end:#x}");
                    at = next;
                }
                (status, _) => return (status, calls),
            }
        }
        unreachable!("the range of calls has no end")
    }

    /// TDG.MEM.PAGE.ACCEPT: its status.
    #[track_caller]
    pub fn accept(&self, address: u64, level: u64) -> u64 {
        self.tdcall(&[(RAX, leaf::MEM_PAGE_ACCEPT), (RCX, address | level)])[RAX]
    }

    /// Makes a page shared or private, and asserts that it worked.
    #[track_caller]
    pub fn td_share(&self, ipa: u64, shared: bool) {
        if shared {
            assert_eq!(self.map_gpa(ipa | self.alias(), FRAME_SIZE).0, vmcall::SUCCESS);
        } else {
            assert_eq!(self.map_gpa(ipa, FRAME_SIZE).0, vmcall::SUCCESS);
            assert_eq!(self.accept(ipa, level::PAGE), status::SUCCESS);
        }
    }
}
