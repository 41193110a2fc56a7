//! The calls that the TD is made to make.

use super::scene::Scene;
use crate::Noise;
use crate::td::{LINUX_MASK, REGISTERS};
use abi::tdx::{field, leaf, register::*, vmcall};
use abi::{BLOCK_SIZE, FRAME_SIZE};
use arch::Conduit;
use arch::machine::Instruction;

/// A leaf of TDCALL, or a sub-function of TDG.VP.VMCALL.
#[derive(Clone, Copy, Debug)]
pub enum Function {
    /// The leaf.
    Leaf(u64),
    /// The sub-function.
    Vm(u64),
}

use Function::{Leaf, Vm};

/// Calls that have a handler, by name.
pub const NAMES: [(&str, Function); 18] = [
    ("TDG_VP_INFO", Leaf(leaf::VP_INFO)),
    ("TDG_MR_RTMR_EXTEND", Leaf(leaf::MR_RTMR_EXTEND)),
    ("TDG_VP_VEINFO_GET", Leaf(leaf::VP_VEINFO_GET)),
    ("TDG_MR_REPORT", Leaf(leaf::MR_REPORT)),
    ("TDG_MEM_PAGE_ACCEPT", Leaf(leaf::MEM_PAGE_ACCEPT)),
    ("TDG_VM_RD", Leaf(leaf::VM_RD)),
    ("TDG_VM_WR", Leaf(leaf::VM_WR)),
    ("TDVMCALL_CPUID", Vm(vmcall::CPUID)),
    ("TDVMCALL_HLT", Vm(vmcall::HLT)),
    ("TDVMCALL_IO", Vm(vmcall::IO)),
    ("TDVMCALL_RDMSR", Vm(vmcall::RDMSR)),
    ("TDVMCALL_WRMSR", Vm(vmcall::WRMSR)),
    ("TDVMCALL_MMIO", Vm(vmcall::MMIO)),
    ("TDVMCALL_GET_INFO", Vm(vmcall::GET_INFO)),
    ("TDVMCALL_MAP_GPA", Vm(vmcall::MAP_GPA)),
    ("TDVMCALL_GET_QUOTE", Vm(vmcall::GET_QUOTE)),
    ("TDVMCALL_REPORT_FATAL_ERROR", Vm(vmcall::REPORT_FATAL_ERROR)),
    ("TDVMCALL_SETUP_EVENT_NOTIFY", Vm(vmcall::SETUP_EVENT_NOTIFY)),
];

/// Any of them, or a number near one, or just a number.
pub fn any(noise: &mut Noise<'_>) -> Function {
    let (_, function) = noise.pick(&NAMES);
    match (noise.below(16), function) {
        (0, Leaf(leaf)) => Leaf(leaf ^ 1 << noise.below(64)),
        (0, Vm(function)) => Vm(function ^ 1 << noise.below(64)),
        (1, _) => Leaf(noise.any()),
        // Otherwise the scene would end all too soon.
        (_, Vm(vmcall::REPORT_FATAL_ERROR)) => Vm(vmcall::MAP_GPA),
        _ => function,
    }
}

impl Scene<'_> {
    /// Makes a call of the TD's, and helps as a host does that is not quite sure how.
    pub fn td_call(&mut self, function: Function, noise: &mut Noise<'_>) {
        let Some((guest, index)) = self.td(noise) else { return };
        let alias = guest.alias();
        let mut registers: [u64; REGISTERS] =
            core::array::from_fn(|_| if noise.one_in(2) { Self::ipa(noise) } else { Self::number(noise) });
        match function {
            Leaf(leaf) => registers[RAX] = leaf,
            Vm(function) => {
                let mask = if noise.one_in(16) { Self::number(noise) } else { LINUX_MASK };
                [registers[RAX], registers[RCX], registers[R11]] = [leaf::VP_VMCALL, mask, function];
                registers[R10] = if noise.one_in(16) { Self::number(noise) } else { 0 };
            }
        }
        let page = Self::ipa(noise) & !(FRAME_SIZE - 1) & !alias;
        let half = noise.pick(&[0, alias]);
        // Mostly arguments of the kind that the call wants.
        match function {
            _ if noise.one_in(4) => {}
            Leaf(leaf::MEM_PAGE_ACCEPT) => {
                registers[RCX] = noise.pick(&[page, page & !(BLOCK_SIZE - 1) | 1]);
            }
            Leaf(leaf::MR_REPORT) => {
                registers[RCX] = page | half | noise.pick(&[0, 1024, 2048, 3072]);
                registers[RDX] = Self::ipa(noise) & !63;
                registers[R8] = 0;
            }
            Leaf(leaf::MR_RTMR_EXTEND) => [registers[RCX], registers[RDX]] = [page + 64, noise.below(4)],
            Leaf(leaf::VM_RD | leaf::VM_WR) => {
                registers[RCX] = 0;
                registers[RDX] = noise.pick(&[field::TD_CTLS, field::MRTD, field::RTMR]) + noise.below(24);
            }
            Vm(vmcall::MAP_GPA) => {
                registers[R12] = page | half;
                registers[R13] = FRAME_SIZE * noise.pick(&[1, 1, 2, 3, 512]);
            }
            Vm(vmcall::GET_QUOTE) => [registers[R12], registers[R13]] = [page | alias, FRAME_SIZE],
            Vm(vmcall::MMIO) => [registers[R12], registers[R13], registers[R14]] = [4, noise.below(2), page | alias],
            Vm(vmcall::IO) => [registers[R12], registers[R13], registers[R14]] = [4, noise.below(2), 0x3F8],
            _ => {}
        }
        let quick = noise.one_in(2);
        guest.vcpu(index, |vcpu| vcpu.quick = quick);
        guest.program(index, [Instruction::Set(registers.to_vec()), Instruction::Call(Conduit::Tdcall)]);
        self.serve(guest, index, noise);
    }
}
