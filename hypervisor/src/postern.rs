//! The hypervisor as one value.

use crate::call;
use crate::counters::Counters;
use crate::vm::Vms;
use abi::host::counter;
use arch::machine::Machine;
use arch::{HostFault, Kernel};
use core::sync::atomic::Ordering;
use guestmem::{Core, Pfn};

/// Everything that calls work on.
pub struct Postern {
    /// Who owns which frame.
    pub core: Core<Machine>,
    /// The VMs; too large for a boot stack, so they live elsewhere.
    pub vms: &'static Vms,
    /// What happened how often.
    pub counters: Counters,
    /// How to crash when a test asks for it.
    #[cfg(feature = "crash-test")]
    pub crash: Option<crate::crash_test::Crash>,
}

impl Postern {
    /// Postern over a database whose host table is built.
    pub const fn new(core: Core<Machine>, vms: &'static Vms) -> Self {
        Self {
            core,
            vms,
            counters: Counters::new(),
            #[cfg(feature = "crash-test")]
            crash: None,
        }
    }
}

impl core::fmt::Debug for Postern {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Postern")
    }
}

impl Kernel for Postern {
    fn host_call(&self, number: u64, arguments: [u64; 6]) -> [u64; 4] {
        call::host::dispatch(self, number, arguments)
    }

    fn while_idle(&self, f: &mut dyn FnMut()) -> bool {
        self.vms.while_empty(f)
    }

    fn read_host(&self, address: u64) -> Option<u64> {
        let word = (address % abi::FRAME_SIZE / 8) as usize;
        self.core.with_host_page(Pfn::from_addr(address), |words| words[word].load(Ordering::Relaxed)).ok()
    }

    fn host_fault(&self, address: u64, write: bool, fetch: bool) -> HostFault {
        match self.core.host_fault(address) {
            guestmem::HostFault::Retry => {
                self.counters.count(counter::HOST_RETRIES);
                HostFault::Retry
            }
            guestmem::HostFault::Denied(state) => {
                self.counters.count(counter::HOST_ABORTS);
                let what = if fetch {
                    "fetch"
                } else if write {
                    "write"
                } else {
                    "read"
                };
                log::debug!("host {what} of {address:#x}, which is {state:?}: abort injected");
                HostFault::Deny
            }
            guestmem::HostFault::NotRam => {
                self.counters.count(counter::HOST_ABORTS);
                log::debug!("host touched {address:#x}, where nothing is: abort injected");
                HostFault::Deny
            }
        }
    }
}
