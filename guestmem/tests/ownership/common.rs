//! A small machine with a host, for the tests.

use guestmem::fake::{self, Fake, GIB, RAM_START};
use guestmem::*;
use std::ops::Range;

/// Address bit of the shared half.
pub const ALIAS: u32 = 38;
/// First guest frame of RAM.
pub const GUEST_RAM: u64 = 0x4_0000;
/// Blocks of host memory that a world has.
pub const BLOCKS: u64 = 8;

pub struct World<F: TableFormat> {
    pub core: Core<Fake<F>>,
    /// RAM as far as the tests use it.
    pub regions: Vec<Range<Pfn>>,
    used_meta: std::cell::Cell<u64>,
}

pub fn pfns(range: Range<u64>) -> Range<Pfn> {
    Pfn::new(range.start)..Pfn::new(range.end)
}

pub fn gfns(range: Range<u64>) -> Range<Gfn> {
    Gfn::new(range.start)..Gfn::new(range.end)
}

impl<F: TableFormat> World<F> {
    /// Block 0 is Postern's and for metadata, the others are free for guests.
    pub fn new() -> Self {
        Self::with_pool(64)
    }

    pub fn with_pool(pool: u64) -> Self {
        let regions = vec![pfns(RAM_START..RAM_START + BLOCKS * BLOCK_FRAMES)];
        Self { core: fake::boot(&regions, pool), regions, used_meta: Self::meta_start(pool) }
    }

    /// As [`World::with_pool`], but the blocks that are free for guests are the first of a GiB that is all RAM.
    pub fn in_gib(pool: u64) -> Self {
        let postern = pfns(RAM_START..RAM_START + BLOCK_FRAMES);
        let core = fake::boot(&[postern.clone(), GIB], pool);
        let used = GIB.start..GIB.start.offset(BLOCKS * BLOCK_FRAMES);
        Self { core, regions: vec![postern, used], used_meta: Self::meta_start(pool) }
    }

    fn meta_start(pool: u64) -> std::cell::Cell<u64> {
        std::cell::Cell::new((pool + 4).next_multiple_of(2))
    }

    /// A frame of the host in block 1.
    pub fn page(&self, index: u64) -> Pfn {
        self.block(1).offset(index)
    }

    pub fn block(&self, index: u64) -> Pfn {
        let base = if index > 0 && self.has_gib() { GIB.start } else { Pfn::new(RAM_START) };
        base.offset(index * BLOCK_FRAMES)
    }

    /// Whether this is a world of [`World::in_gib`].
    pub fn has_gib(&self) -> bool {
        self.regions.len() > 1
    }

    /// Whether the host's table maps the GiB of a frame in one piece. It must be exactly as the counter says.
    #[track_caller]
    pub fn is_gib_leaf(&self, frame: Pfn) -> bool {
        let level = self.core.machine.walk(self.core.host_root(), frame.get()).map(|(.., level)| level);
        let leaves = self.core.stats().gib_leaves;
        assert!(leaves <= 1 && (level == Some(1)) == (leaves == 1), "level {level:?}, but {leaves} leaves are counted");
        leaves == 1
    }

    pub fn gfn(&self, index: u64) -> Gfn {
        Gfn::new(GUEST_RAM + index)
    }

    fn meta(&self, frames: u64) -> Range<Pfn> {
        let start = self.used_meta.get();
        self.used_meta.set(start + frames.next_multiple_of(2));
        pfns(RAM_START + start..RAM_START + start + frames)
    }

    /// Like [`World::plain`], with that much metadata.
    pub fn guest(&self, id: u16, alias: Option<u32>, meta: u64) -> Guest {
        self.guest_of(id, gfns(GUEST_RAM..GUEST_RAM + 16 * BLOCK_FRAMES), alias, meta)
    }

    /// Like [`World::guest`], with that RAM.
    pub fn guest_of(&self, id: u16, ram: Range<Gfn>, alias: Option<u32>, meta: u64) -> Guest {
        fake::guest(&self.core, id, Layout { ram, alias, accepts: false }, self.meta(meta))
    }

    /// A guest with a shared half that accepts what it takes back.
    pub fn accepting(&self, id: u16) -> Guest {
        let ram = gfns(GUEST_RAM..GUEST_RAM + 16 * BLOCK_FRAMES);
        fake::guest(&self.core, id, Layout { ram, alias: Some(ALIAS), accepts: true }, self.meta(32))
    }

    /// A guest without an alias.
    pub fn plain(&self, id: u16) -> Guest {
        self.guest(id, None, 32)
    }

    /// A guest with a shared half.
    pub fn aliased(&self, id: u16) -> Guest {
        self.guest(id, Some(ALIAS), 32)
    }

    /// Donates a page, which always takes one call.
    pub fn donate(&self, vm: &Guest, frame: Pfn, gfn: Gfn) -> Result<(), Refusal> {
        assert_eq!(self.core.donate(vm, frame, gfn, Size::Page, &mut Budget::new(1))?, Progress::Done);
        Ok(())
    }

    /// Donates a block, in as many calls as it takes.
    pub fn donate_block(&self, vm: &Guest, frame: Pfn, gfn: Gfn) -> Result<(), Refusal> {
        while self.core.donate(vm, frame, gfn, Size::Block, &mut Budget::new(64))? == Progress::More {}
        Ok(())
    }

    /// Converts a range, in as many calls as it takes.
    pub fn convert(&self, vm: &Guest, range: Range<Gfn>, to: Visibility) -> Result<(), Refusal> {
        let mut at = range.start;
        while at < range.end {
            let next = self.core.convert(vm, at..range.end, to, &mut Budget::new(64))?;
            assert!(next > at && next <= range.end, "no progress");
            at = next;
        }
        Ok(())
    }

    pub fn end(&self, vm: &Guest) {
        let mut calls = 0;
        while self.core.reclaim(vm, &mut Budget::new(64)) == Progress::More {
            calls += 1;
            assert!(calls < 10_000, "reclaim does not end");
        }
        assert_eq!((vm.private_frames(), vm.shared_frames(), vm.meta_frames(), vm.loading()), (0, 0, 0, 0));
        assert!(vm.is_gone());
    }

    pub fn host_reads(&self, frame: Pfn) -> Option<u64> {
        self.core.machine.load(Space::Host, self.core.host_root(), frame.addr() + 8)
    }

    /// What a table of this machine says that maps 2 MiB.
    pub fn block_entry(&self, first: Pfn) -> u64 {
        F::leaf(first.addr(), 2, Attrs::Ram)
    }

    pub fn host_writes(&self, frame: Pfn, value: u64) -> bool {
        self.core.machine.store(Space::Host, self.core.host_root(), frame.addr() + 8, value)
    }

    pub fn guest_reads(&self, vm: &Guest, gfn: Gfn) -> Option<u64> {
        self.core.machine.load(Space::Guest(vm.id()), vm.root(), gfn.addr() + 8)
    }

    pub fn guest_writes(&self, vm: &Guest, gfn: Gfn, value: u64) -> bool {
        self.core.machine.store(Space::Guest(vm.id()), vm.root(), gfn.addr() + 8, value)
    }

    pub fn alias_reads(&self, vm: &Guest, gfn: Gfn) -> Option<u64> {
        let address = gfn.addr() | 1 << vm.layout().alias.unwrap();
        self.core.machine.load(Space::Guest(vm.id()), vm.root(), address + 8)
    }

    pub fn alias_writes(&self, vm: &Guest, gfn: Gfn, value: u64) -> bool {
        let address = gfn.addr() | 1 << vm.layout().alias.unwrap();
        self.core.machine.store(Space::Guest(vm.id()), vm.root(), address + 8, value)
    }

    /// The whole audit, the TLB, and the counters.
    pub fn check(&self, vms: &[&Guest]) {
        fake::audit(&self.core, vms);
        for vm in vms {
            let counted = fake::count(&self.core, &self.regions, vm.id());
            assert_eq!((vm.private_frames(), vm.shared_frames()), counted);
        }
    }

    /// Whether all RAM of the last region is the host's, and nothing but that. If it is a GiB, there is a leaf.
    pub fn is_all_host(&self) -> bool {
        self.regions.last().into_iter().flat_map(|region| region.start.get()..region.end.get()).all(|frame| {
            let record = self.core.lookup(Pfn::new(frame));
            (record.state, record.count) == (State::Host, 0)
        })
    }

    pub fn state(&self, frame: Pfn) -> State {
        self.core.lookup(frame).state
    }
}

/// First frame after the RAM of a world.
pub const RAM_END: u64 = RAM_START + BLOCKS * BLOCK_FRAMES;

impl<F: TableFormat> World<F> {
    /// Another world, whose pool lasts for a few blocks.
    pub fn smaller_pool(self) -> Self {
        Self::with_pool(13)
    }

    pub fn root_frames(&self) -> u64 {
        F::ROOT_FRAMES
    }
}

/// Runs a test on both table formats.
macro_rules! on_both {
    ($($(#[$meta:meta])* fn $name:ident($world:ident) $body:block)*) => {
        mod two_root_tables {
            use super::*;
            $($(#[$meta])* #[test] fn $name() { let $world = World::<Concatenated>::new(); $body })*
        }
        mod four_levels {
            use super::*;
            $($(#[$meta])* #[test] fn $name() { let $world = World::<FourLevels>::new(); $body })*
        }
    };
}
