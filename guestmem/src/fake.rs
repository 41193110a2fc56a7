//! A machine in ordinary memory, for tests.
//!
//! Its TLB keeps a translation until that very translation is flushed, and answers from it even when the tables say
//! otherwise by then: a forgotten flush shows as an access that should have failed. [`stale`] finds such translations.

use crate::sync::{AtomicU64, Ordering, Word};
use crate::{
    Attrs, BLOCK_FRAMES, Core, Entry, FRAME_SHIFT, Gfn, Guest, Layout, Machine, OwnerId, Pfn, Size, Space, State,
    TableFormat,
};
use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64 as Counter};
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

/// A 40-bit address space with two root tables, as on arm64.
#[derive(Debug, Default)]
pub struct Concatenated;
/// Four levels with one root table, as EPT has.
#[derive(Debug, Default)]
pub struct FourLevels;

fn encode(address: u64, kind: u64, attrs: u64) -> u64 {
    (address & ((1 << 48) - 1) & !0xfff) | attrs << 2 | kind << 1 | 1
}

fn decode(entry: u64, level: u32) -> Entry {
    let address = entry & ((1 << 48) - 1) & !0xfff;
    let attrs = [Attrs::Ram, Attrs::SharedRam, Attrs::Device, Attrs::Device][(entry >> 2 & 3) as usize];
    match (entry & 1, entry >> 1 & 1) {
        (0, _) => Entry::Empty,
        (_, 1) if level < 3 => Entry::Table { address },
        _ => Entry::Leaf { address, attrs },
    }
}

macro_rules! format {
    ($name:ident, $level:literal, $frames:literal) => {
        impl TableFormat for $name {
            const ROOT_LEVEL: u32 = $level;
            const ROOT_FRAMES: u64 = $frames;
            fn leaf(address: u64, _: u32, attrs: Attrs) -> u64 {
                encode(address, 0, attrs as u64)
            }
            fn table(address: u64) -> u64 {
                encode(address, 1, 0)
            }
            fn decode(entry: u64, level: u32) -> Entry {
                decode(entry, level)
            }
        }
    };
}
format!(Concatenated, 1, 2);
format!(FourLevels, 0, 1);

type Frame = OnceLock<Box<[Word; 512]>>;
/// As many frames as a block has, which come into being together, empty.
type Chunk = OnceLock<Box<[Frame; 512]>>;
type Translation = (Space, u64, bool);

/// The machine.
pub struct Fake<F = Concatenated> {
    regions: Vec<(Range<Pfn>, Vec<Chunk>)>,
    /// Whether accesses go through the TLB.
    pub caches: AtomicBool,
    /// By space, first frame number and "is a block": the frame it translates to and how, and the level of the leaf.
    tlb: Mutex<HashMap<Translation, (Pfn, Attrs, u32)>>,
    /// An interrupt is pending.
    pub interrupt: AtomicBool,
    /// Frames wiped so far.
    pub wipes: Counter,
    /// Flushes so far.
    pub flushes: Counter,
    format: PhantomData<fn() -> F>,
}

impl<F> Fake<F> {
    /// A machine with RAM in these regions. Frames come into being when they are first touched.
    pub fn new(regions: &[Range<Pfn>]) -> Self {
        let regions = regions
            .iter()
            .map(|region| {
                let chunks = region.end.since(region.start).div_ceil(BLOCK_FRAMES);
                (region.clone(), (0..chunks).map(|_| OnceLock::new()).collect())
            })
            .collect();
        Self {
            regions,
            caches: AtomicBool::new(true),
            tlb: Mutex::default(),
            interrupt: AtomicBool::new(false),
            wipes: Counter::new(0),
            flushes: Counter::new(0),
            format: PhantomData,
        }
    }

    fn frame(&self, frame: Pfn) -> &Frame {
        let region = self.regions.iter().find(|(region, _)| region.contains(&frame));
        let (region, chunks) = region.unwrap_or_else(|| panic!("{frame:?} is no RAM"));
        let index = frame.since(region.start) as usize;
        &chunks[index / 512].get_or_init(|| Box::new([const { OnceLock::new() }; 512]))[index % 512]
    }

    /// The content of a frame, by whatever way.
    pub fn content(&self, frame: Pfn) -> &[Word; 512] {
        self.frame(frame).get_or_init(|| Box::new([const { Word::new(0) }; 512]))
    }
}

impl<F: TableFormat> Fake<F> {
    /// Translates an access, from the TLB if that knows the address, else from the table at `root`.
    pub fn translate(&self, space: Space, root: Pfn, address: u64) -> Option<(Pfn, Attrs)> {
        let number = address >> FRAME_SHIFT;
        let first = number & !(BLOCK_FRAMES - 1);
        if self.caches.load(Ordering::Relaxed) {
            let tlb = self.tlb.lock().unwrap();
            if let Some(&(frame, attrs, _)) = tlb.get(&(space, number, false)) {
                return Some((frame, attrs));
            }
            if let Some(&(base, attrs, _)) = tlb.get(&(space, first, true)) {
                return Some((base.offset(number - first), attrs));
            }
        }
        let (base, attrs, level) = self.walk(root, number)?;
        let block = level < 3;
        let start = if block { first } else { number };
        if self.caches.load(Ordering::Relaxed) {
            self.tlb.lock().unwrap().insert((space, start, block), (base, attrs, level));
        }
        Some((base.offset(number - start), attrs))
    }

    /// What the table at `root` says of a frame number: the frame that the translation begins with, how it is mapped, and
    /// the level of its leaf. Above level 3 the translation is of 2 MiB: of a larger leaf the TLB keeps what is around the
    /// access.
    pub fn walk(&self, root: Pfn, number: u64) -> Option<(Pfn, Attrs, u32)> {
        let index = number >> (9 * (3 - F::ROOT_LEVEL));
        if index >= F::ROOT_FRAMES * 512 {
            return None;
        }
        let mut entry = self.content(root.offset(index / 512))[index as usize % 512].load(Ordering::Acquire);
        for level in F::ROOT_LEVEL..=3 {
            match F::decode(entry, level) {
                Entry::Empty => return None,
                Entry::Table { address } => {
                    let index = number >> (9 * (2 - level));
                    entry = self.content(Pfn::from_addr(address))[index as usize % 512].load(Ordering::Acquire);
                }
                Entry::Leaf { address, attrs } => {
                    let skip = number & ((1 << (9 * (3 - level))) - 1) & !(BLOCK_FRAMES - 1);
                    return Some((Pfn::from_addr(address).offset(skip), attrs, level));
                }
            }
        }
        None
    }

    /// Reads a word as a CPU in `space` would.
    pub fn load(&self, space: Space, root: Pfn, address: u64) -> Option<u64> {
        let (frame, _) = self.translate(space, root, address)?;
        Some(self.content(frame)[address as usize % 4096 / 8].load(Ordering::Relaxed))
    }

    /// Writes a word as a CPU in `space` would. False when the access faults.
    pub fn store(&self, space: Space, root: Pfn, address: u64, value: u64) -> bool {
        match self.translate(space, root, address) {
            Some((frame, _)) => {
                self.content(frame)[address as usize % 4096 / 8].store(value, Ordering::Relaxed);
                true
            }
            None => false,
        }
    }
}

impl<F: TableFormat> Machine for Fake<F> {
    type Format = F;

    fn words(&self, frame: Pfn) -> &[Word; 512] {
        self.content(frame)
    }

    fn wipe(&self, frame: Pfn) {
        self.wipes.fetch_add(1, Ordering::Relaxed);
        // A frame that nobody has touched is zero.
        if let Some(words) = self.frame(frame).get() {
            words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }

    fn flush(&self, space: Space, address: u64, _: Size) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        // One translation only, whatever the caller thinks it covers: that is what TLBI by address promises.
        let number = address >> FRAME_SHIFT;
        let mut tlb = self.tlb.lock().unwrap();
        tlb.remove(&(space, number, false));
        tlb.remove(&(space, number & !(BLOCK_FRAMES - 1), true));
    }

    fn flush_all(&self, space: Space) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.tlb.lock().unwrap().retain(|(other, ..), _| *other != space);
    }

    fn publish(&self) {}

    fn should_yield(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }
}

/// Host-physical frame from which [`boot`] takes what Postern needs.
pub const RAM_START: u64 = 0x4_0000;

/// A GiB of RAM that [`boot`] takes nothing from, if it is among the regions.
pub const GIB: Range<Pfn> = Pfn::new(0x8_0000)..Pfn::new(0xc_0000);

/// A database over these regions, with the host's table built. The first region provides Postern's own frames: the root
/// table and `pool` frames of pool.
pub fn boot<F: TableFormat>(regions: &[Range<Pfn>], pool: u64) -> Core<Fake<F>> {
    boot_with(regions, pool, &[])
}

/// As [`boot`], with devices.
pub fn boot_with<F: TableFormat>(regions: &[Range<Pfn>], pool: u64, devices: &[Range<u64>]) -> Core<Fake<F>> {
    let needed = Core::<Fake<F>>::summaries_needed(regions);
    let summaries: Vec<AtomicU64> = (0..needed).map(|_| AtomicU64::new(u64::MAX)).collect();
    let core = Core::new(Fake::new(regions), regions, summaries.leak()).expect("regions");
    let root = Pfn::new(regions[0].start.get().next_multiple_of(F::ROOT_FRAMES));
    let past_root = root.offset(F::ROOT_FRAMES);
    core.add_pool(past_root..past_root.offset(pool)).expect("pool");
    core.claim(root..past_root).expect("root");
    core.build_host_table(root, devices).expect("host table");
    core
}

/// A VM with metadata from `meta` on, whose first frames are its root table.
pub fn guest<F: TableFormat>(core: &Core<Fake<F>>, id: u16, layout: Layout, meta: Range<Pfn>) -> Guest {
    let vm = Guest::new(OwnerId::new(id).expect("owner"), meta.start, layout);
    for frame in meta.start.get()..meta.end.get() {
        core.donate_meta(&vm, Pfn::new(frame)).expect("metadata");
    }
    vm
}

/// A copy of a machine with its database and VMs, for tests that try several futures. Only while nothing else uses it.
pub fn fork<F: TableFormat>(core: &Core<Fake<F>>, vms: &[&Guest]) -> (Core<Fake<F>>, Vec<Guest>) {
    let regions: Vec<_> = core.machine.regions.iter().map(|(region, _)| region.clone()).collect();
    let machine = Fake::new(&regions);
    for (from, to) in core.machine.regions.iter().zip(&machine.regions) {
        for (from, to) in from.1.iter().zip(&to.1) {
            if let Some(frames) = from.get() {
                let _ = to.set(Box::new(std::array::from_fn(|index| copy_frame(&frames[index]))));
            }
        }
    }
    *machine.tlb.lock().unwrap() = core.machine.tlb.lock().unwrap().clone();
    (core.fork(machine), vms.iter().map(|vm| vm.fork()).collect())
}

fn copy_frame(frame: &Frame) -> Frame {
    let copy = |words: &[Word; 512]| Box::new(std::array::from_fn(|at| Word::new(words[at].load(Ordering::Relaxed))));
    frame.get().map_or_else(Frame::new, |words| Frame::from(copy(words)))
}

/// Translations in the TLB that should have been flushed, as text: those that no record justifies, and those that the
/// tables do not hold any more in this size (break before make).
pub fn stale<F: TableFormat>(core: &Core<Fake<F>>, vms: &[&Guest]) -> Vec<String> {
    let tlb: Vec<_> = core.machine.tlb.lock().unwrap().iter().map(|(key, value)| (*key, *value)).collect();
    let mut found = Vec::new();
    for ((space, number, block), (base, attrs, level)) in tlb {
        let root = match space {
            Space::Host => Some(core.host_root()),
            Space::Guest(id) => vms.iter().find(|vm| vm.id() == id).map(|vm| vm.root()),
        };
        let held = root.and_then(|root| core.machine.walk(root, number)) == Some((base, attrs, level));
        let frames = if block { BLOCK_FRAMES } else { 1 };
        let bad =
            (0..frames).find(|index| !held || !justified(core, vms, space, number + index, base.offset(*index), attrs));
        if let Some(index) = bad {
            let record = core.lookup(base.offset(index));
            found.push(std::format!(
                "{space:?} {:#x}, block: {block}, -> {base:?} + {index}: {record:?}",
                number + index
            ));
        }
    }
    found
}

/// Whether the record of a frame allows a space to reach it at a frame number.
fn justified<F: TableFormat>(
    core: &Core<Fake<F>>,
    vms: &[&Guest],
    space: Space,
    number: u64,
    frame: Pfn,
    attrs: Attrs,
) -> bool {
    let record = core.lookup(frame);
    let Space::Guest(id) = space else {
        return attrs == Attrs::Device || record.host_may_access() && frame.get() == number;
    };
    vms.iter().filter(|vm| vm.id() == id).any(|vm| {
        let half = vm.layout().alias.map_or(0, |bit| 1 << (bit - FRAME_SHIFT));
        let state = match (half, number & half) {
            (0, _) => record.state == State::Private || record.state == State::Shared,
            (_, 0) => record.state == State::Private,
            _ => record.state == State::Shared,
        };
        record.owner == Some(id) && record.gfn == Gfn::new(number & !half) && state
    })
}

/// The whole audit; panics with what it found.
pub fn audit<F: TableFormat>(core: &Core<Fake<F>>, vms: &[&Guest]) {
    let find = |id: OwnerId| vms.iter().copied().find(|vm| vm.id() == id);
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        let audit = core.audit(&find, at, &mut crate::Budget::unlimited());
        assert_eq!(audit.violations, 0, "{:?}", audit.first);
        cursor = audit.next;
    }
    let stale = stale(core, vms);
    assert!(stale.is_empty(), "stale translations: {stale:#?}");
}

/// Private and shared frames of a VM as the records have them, blocks in motion counted as what they come from.
pub fn count<F: TableFormat>(core: &Core<Fake<F>>, regions: &[Range<Pfn>], id: OwnerId) -> (u64, u64) {
    let mut counts = (0, 0);
    for frame in regions.iter().flat_map(|region| region.start.get()..region.end.get()) {
        let record = core.lookup(Pfn::new(frame));
        match record.state {
            _ if record.owner != Some(id) => {}
            State::Private | State::Pending | State::Opening => counts.0 += 1,
            State::Shared | State::Closing => counts.1 += 1,
            _ => {}
        }
    }
    counts
}
