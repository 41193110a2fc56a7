//! What the guest runs in: dialect, memory, devices.

use abi::{FRAME_SIZE, pkvm, rsi, smccc as ids};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use payloads::devicetree::Machine;
use payloads::{Boot, console, gic, psci, rsi as realm, smccc};

/// The ABI between guest and hypervisor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Arm CCA.
    Realm,
    /// pKVM.
    Pkvm,
    /// None: an ordinary machine.
    Bare,
}

impl Dialect {
    /// For the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Realm => "realm",
            Self::Pkvm => "pkvm",
            Self::Bare => "no",
        }
    }

    /// Asks the hypervisor, in the way that Linux does.
    fn detect() -> Self {
        if psci::by_smc() {
            let [status, ..] = realm::version(rsi::VERSION_1_0);
            return if status == rsi::SUCCESS { Self::Realm } else { Self::Bare };
        }
        let uid = smccc::hvc(smccc::call(ids::VENDOR_UID, 0, 0, 0));
        if uid.map(|word| word & 0xffff_ffff) == pkvm::KVM_UID { Self::Pkvm } else { Self::Bare }
    }
}

/// The guest's surroundings.
pub struct World {
    /// The ABI.
    pub dialect: Dialect,
    /// What the device tree says.
    pub machine: Machine,
    /// RAM.
    pub ram: Range<u64>,
    /// What to add to an address to reach its shared alias: zero where there is none.
    pub alias: u64,
    free: AtomicU64,
}

impl World {
    /// Finds out and sets up console and interrupts.
    pub fn new(boot: Boot) -> Self {
        let dialect = Dialect::detect();
        let alias = if dialect == Dialect::Realm { 1 << (rsi::IPA_BITS - 1) } else { 0 };
        let machine = boot.machine;
        if let Some(uart) = machine.uarts.first() {
            console::uart_init(uart + alias);
            console::use_uart(uart + alias);
        }
        gic::init(machine.distributor + alias, machine.redistributors + alias);
        gic::init_cpu();
        let ram = machine.memory.first().cloned().unwrap_or(0..0);
        let blob = boot.blob.as_ptr() as u64 + boot.blob.len() as u64;
        let free = AtomicU64::new(boot.image.end.max(blob).next_multiple_of(abi::BLOCK_SIZE));
        Self { dialect, machine, ram, alias, free }
    }

    /// Whether this is a realm.
    pub fn is_realm(&self) -> bool {
        self.dialect == Dialect::Realm
    }

    /// `count` pages that nothing has touched yet, aligned to `align` bytes.
    pub fn pages(&self, count: u64, align: u64) -> u64 {
        let take = |free: u64| Some(free.next_multiple_of(align) + count * FRAME_SIZE);
        let before = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).unwrap_or(0);
        let start = before.next_multiple_of(align);
        assert!(start + count * FRAME_SIZE <= self.ram.end, "the test guest needs more memory");
        start
    }

    /// One page that nothing has touched yet.
    pub fn page(&self) -> u64 {
        self.pages(1, FRAME_SIZE)
    }

    /// Opens pages to the host: where to access them now.
    ///
    /// # Errors
    /// The dialect's code.
    pub fn share(&self, start: u64, count: u64) -> Result<u64, i64> {
        self.convert(start, count, true)?;
        Ok(start + self.alias)
    }

    /// Closes pages to the host.
    ///
    /// # Errors
    /// The dialect's code.
    pub fn unshare(&self, start: u64, count: u64) -> Result<(), i64> {
        self.convert(start, count, false)
    }

    fn convert(&self, start: u64, count: u64, share: bool) -> Result<(), i64> {
        if self.is_realm() {
            let state = if share { rsi::RIPAS_EMPTY } else { rsi::RIPAS_RAM };
            return realm::set_state(start, start + count * FRAME_SIZE, state).map_err(|status| status as i64);
        }
        let call = if share { payloads::pkvm::share } else { payloads::pkvm::unshare };
        for n in 0..count {
            match call(start + n * FRAME_SIZE) {
                0 => {}
                code => return Err(code),
            }
        }
        Ok(())
    }
}

/// Reads eight bytes of the guest's own memory.
pub fn read(address: u64) -> u64 {
    // SAFETY: tests use pages of their own, from `World::pages`; volatile because others may write shared ones.
    unsafe { (address as *const u64).read_volatile() }
}

/// Writes eight bytes of the guest's own memory.
pub fn write(address: u64, value: u64) {
    // SAFETY: as above.
    unsafe { (address as *mut u64).write_volatile(value) };
}

/// Offset of the first word in a page that is not zero.
pub fn first_nonzero(page: u64) -> Option<u64> {
    (0..FRAME_SIZE).step_by(8).find(|offset| read(page + offset) != 0)
}
