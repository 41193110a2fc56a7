//! Calls that are answered while the guest's world stays loaded: those a guest makes by the thousand.
//!
//! Of SMCCC calls only success is answered here. Whatever else comes out has changed nothing, so the long way finds it again.
//! TDCALLs, whose handlers write their results themselves, are all answered here; a reason to leave is kept for the run loop.

use crate::Postern;
use crate::call::{pkvm, realm, tdx};
use crate::vcpu::{Reason, VcpuPage};
use crate::vm::{Dialect, Vm};
use abi::host::counter;
use arch::machine::Vcpu;
use arch::{Conduit, QuickCalls};
use core::cell::Cell;
use core::sync::atomic::Ordering;
use guestmem::Pfn;

/// The calls of one vCPU while it runs.
#[derive(Debug)]
pub struct Calls<'a> {
    /// The hypervisor.
    pub postern: &'a Postern,
    /// The caller's VM.
    pub vm: &'a Vm,
    /// The caller.
    pub page: &'a VcpuPage,
    answered: Cell<u64>,
    reason: Cell<Option<Reason>>,
}

impl<'a> Calls<'a> {
    /// Calls of a vCPU of `vm`.
    pub fn new(postern: &'a Postern, vm: &'a Vm, page: &'a VcpuPage) -> Self {
        Self { postern, vm, page, answered: Cell::new(0), reason: Cell::new(None) }
    }

    /// The host has something to do when the call is answered.
    pub fn leave(&self, reason: Reason) {
        self.reason.set(Some(reason));
    }

    /// Why the call that the guest has left for needs the host; nothing when it has not been answered.
    pub fn take_reason(&self) -> Option<Reason> {
        self.reason.take()
    }
}

impl QuickCalls for Calls<'_> {
    #[inline]
    fn call(&self, conduit: Conduit, [function, arguments @ ..]: [u64; 4]) -> Option<[u64; 4]> {
        let answer = match self.vm.dialect {
            Dialect::Pkvm => pkvm::quick(self.postern, self.vm, function, arguments),
            Dialect::Realm if conduit == Conduit::Smc => realm::quick(self.postern, self.vm, function, arguments),
            Dialect::Realm | Dialect::Tdx => None,
        };
        self.answered.set(self.answered.get() + u64::from(answer.is_some()));
        answer
    }

    #[inline(always)]
    fn tdcall(&self, vcpu: &mut Vcpu, quick: bool) -> bool {
        if self.vm.dialect != Dialect::Tdx {
            return false;
        }
        self.answered.set(self.answered.get().wrapping_add(1));
        quick && tdx::quick(self, vcpu) || {
            tdx::dispatch(self, vcpu);
            self.reason.get().is_none()
        }
    }

    fn read_private(&self, address: u64) -> Option<u64> {
        let gfn = self.vm.ram(address)?;
        let index = (address % abi::FRAME_SIZE / 8) as usize;
        self.postern.core.with_page(&self.vm.memory, gfn, |words| words[index].load(Ordering::Relaxed)).ok()
    }

    fn private_frame(&self, address: u64) -> Option<Pfn> {
        self.postern.core.private_frame(&self.vm.memory, self.vm.ram(address)?).ok()
    }
}

impl Drop for Calls<'_> {
    fn drop(&mut self) {
        self.postern.counters.add(counter::GUEST_CALLS, self.answered.get());
    }
}
