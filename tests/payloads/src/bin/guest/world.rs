//! What the guest runs in: dialect, memory, devices.

use crate::dialect;
use abi::FRAME_SIZE;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use payloads::{Boot, Machine, console, interrupt, uart};

/// The ABI between guest and hypervisor.
#[allow(dead_code)] // Each architecture has its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Arm CCA.
    Realm,
    /// pKVM.
    Pkvm,
    /// Intel TDX.
    Tdx,
    /// None: an ordinary machine.
    Bare,
}

impl Dialect {
    /// For the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Realm => "realm",
            Self::Pkvm => "pkvm",
            Self::Tdx => "tdx",
            Self::Bare => "no",
        }
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
        let dialect = dialect::detect();
        let alias = dialect::alias(dialect);
        let machine = boot.machine;
        if let Some(line) = machine.uarts.first() {
            let line = uart::shared(*line, alias);
            uart::init(line);
            console::use_uart(line);
        }
        interrupt::init(&machine, alias);
        interrupt::init_cpu();
        let ram = machine.memory.iter().max_by_key(|range| range.end - range.start).cloned().unwrap_or(0..0);
        let free = AtomicU64::new(boot.image.end.max(boot.description.end).next_multiple_of(abi::BLOCK_SIZE));
        Self { dialect, machine, ram, alias, free }
    }

    /// Whether this is a realm.
    #[allow(dead_code, reason = "not every architecture has realms")]
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
        dialect::convert(self, start, count, true)?;
        Ok(start + self.alias)
    }

    /// Closes pages to the host.
    ///
    /// # Errors
    /// The dialect's code.
    pub fn unshare(&self, start: u64, count: u64) -> Result<(), i64> {
        dialect::convert(self, start, count, false)
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
