//! `VM_CREATE`.

use super::{Call, Reply, done, frame, frames};
use crate::call::pkvm::mmio_guard::Guards;
use crate::measure::{Extensible, Measurement};
use crate::vm::{ArchVm, Dialect, Vm, ending};
use crate::{Postern, Refused};
use abi::host::{self, GUEST_RAM_MAX, META_FRAMES_MIN, VCPUS_MAX, VmConfig, vm_state};
use core::sync::atomic::{AtomicU64, Ordering};
use guestmem::{Gfn, Guest, Layout, OwnerId, Pfn, Record, Refusal, Space, State};
use spin::{Mutex, Once};

/// See [`host::VM_CREATE`].
pub const CALL: Call = Call {
    number: host::VM_CREATE,
    name: "VM_CREATE",
    arguments: &[
        "physical address of the configuration",
        "physical address of metadata, a multiple of 8 KiB",
        "metadata frames: 4",
    ],
    results: &["handle"],
    summary: "Creates a VM; its tables live in the metadata, whose first two frames become the root.",
    run,
};

/// Bytes of the distributor and of one redistributor.
pub const GICD_SIZE: u64 = 0x1_0000;
/// See [`GICD_SIZE`].
pub const GICR_SIZE: u64 = 0x2_0000;

fn run(postern: &Postern, [config, meta, count, ..]: [u64; 6]) -> Result<Reply, Refused> {
    let config_words = postern.core.with_host_page(frame(config)?, |words| {
        core::array::from_fn::<u64, 6, _>(|index| words[index].load(Ordering::Relaxed))
    })?;
    let [dialect_number, vcpu_count, ram_base, ram_size, gicd_base, gicr_base] = config_words;
    let config = VmConfig { dialect: dialect_number, vcpu_count, ram_base, ram_size, gicd_base, gicr_base };
    let dialect = check(&config)?;
    let frames = frames(meta, count)?;
    if count < META_FRAMES_MIN || !meta.is_multiple_of(2 * abi::FRAME_SIZE) {
        return Err(Refused::Invalid("the metadata: at least 4 frames from a multiple of 8 KiB"));
    }
    // Looked at first, so that only a host that changes them meanwhile gets half way.
    if let Some(record) = frames.clone().map(|frame| postern.core.lookup(frame)).find(|record| !is_free(record)) {
        return Err(Refused::Core(match record.state {
            State::Absent => Refusal::NotRam,
            State::Host => Refusal::Pinned,
            state => Refusal::NotOwner(state),
        }));
    }
    let (mut slot, owner, handle) = postern.vms.vacant()?;
    let memory = guest(owner, frame(meta)?, dialect, &config);
    for (taken, frame) in frames.clone().enumerate() {
        if let Err(refusal) = postern.core.donate_meta(&memory, frame) {
            give_back(postern, &memory, frames.take(taken));
            return Err(refusal.into());
        }
    }
    arch::machine::set_root(Space::Guest(owner), frame(meta)?);
    let alias = dialect.alias();
    let arch = arch::VmConfig { owner, vcpu_count: vcpu_count as usize, gicd_base, gicr_base, alias };
    *slot = Some(Vm {
        config,
        dialect,
        alias,
        memory,
        arch: ArchVm(arch::machine::Vm::new(arch)),
        state: AtomicU64::new(vm_state::NEW),
        ending: AtomicU64::new(ending::NONE),
        guards: Guards::new(),
        vcpus: [const { Once::new() }; VCPUS_MAX],
        launch: Mutex::new(Measurement::new(&config_words)),
        extensible: Mutex::new(Extensible::default()),
        controls: AtomicU64::new(0),
        notify: AtomicU64::new(0),
        entry: Once::new(),
    });
    Ok(done([handle, 0, 0]))
}

/// Whether a frame is the host's to give.
fn is_free(record: &Record) -> bool {
    record.state == State::Host && record.pins() == 0
}

fn guest(owner: OwnerId, root: Pfn, dialect: Dialect, config: &VmConfig) -> Guest {
    let ram = Gfn::from_addr(config.ram_base)..Gfn::from_addr(config.ram_base + config.ram_size);
    Guest::new(owner, root, Layout { ram, alias: dialect.alias_bit(), accepts: dialect == Dialect::Tdx })
}

fn check(config: &VmConfig) -> Result<Dialect, Refused> {
    let dialect = Dialect::from_number(config.dialect).ok_or(Refused::Invalid("unknown dialect"))?;
    if !(1..=VCPUS_MAX as u64).contains(&config.vcpu_count) {
        return Err(Refused::Invalid("vCPUs: 1 to 8"));
    }
    // The private half of a realm's address space is the smaller one, and plenty.
    let limit = dialect.alias_bit().map_or(1 << (arch::machine::ipa_bits() - 1), |bit| 1 << bit);
    let inside = |base: u64, size: u64| base.checked_add(size).is_some_and(|end| end <= limit);
    let aligned = (config.ram_base | config.ram_size).is_multiple_of(abi::BLOCK_SIZE);
    if config.ram_size == 0 || config.ram_size > GUEST_RAM_MAX || !aligned || !inside(config.ram_base, config.ram_size)
    {
        return Err(Refused::Invalid("RAM: whole 2 MiB blocks, at most 64 GiB, below the shared half"));
    }
    if dialect == Dialect::Tdx {
        // Its interrupt controller is in registers.
        let none = config.gicd_base == 0 && config.gicr_base == 0;
        return if none { Ok(dialect) } else { Err(Refused::Invalid("interrupt controller: none for this guest ABI")) };
    }
    let ram = config.ram_base..config.ram_base + config.ram_size;
    let gicr_size = config.vcpu_count * GICR_SIZE;
    for (base, size) in [(config.gicd_base, GICD_SIZE), (config.gicr_base, gicr_size)] {
        if !base.is_multiple_of(GICD_SIZE) || !inside(base, size) || loader::overlap(&ram, &(base..base + size)) {
            return Err(Refused::Invalid("interrupt controller: multiples of 64 KiB outside RAM"));
        }
    }
    let (gicd, gicr) = (config.gicd_base, config.gicr_base);
    if loader::overlap(&(gicd..gicd + GICD_SIZE), &(gicr..gicr + gicr_size)) {
        return Err(Refused::Invalid("distributor and redistributors overlap"));
    }
    Ok(dialect)
}

/// Undoes a creation half way: gives back what was taken, and nothing has to be looked for.
fn give_back(postern: &Postern, memory: &Guest, taken: impl Iterator<Item = Pfn>) {
    postern.core.kill(memory);
    for frame in taken {
        if let Err(refusal) = postern.core.withdraw_meta(memory, frame) {
            log::error!("metadata of a VM that was not created stays with Postern: {refusal:?}");
        }
    }
}
