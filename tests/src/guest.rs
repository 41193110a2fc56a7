//! A VM of the test's.

use crate::World;
use abi::host::{self, VmConfig, dialect};
use abi::run::{self, exit};
use abi::{FRAME_SIZE, rsi};
use arch::machine::{Instruction, Vcpu};
use arch::{Abort, Conduit, MmioAccess};
use core::sync::atomic::Ordering::Relaxed;
use guestmem::Space;

/// A VM, with what the host has to remember of it.
#[derive(Clone, Debug)]
pub struct Guest<'w> {
    /// Where it lives.
    pub world: &'w World,
    /// What the host calls it.
    pub handle: u64,
    /// As it was created.
    pub config: VmConfig,
    /// Run pages by vCPU.
    pub run_pages: Vec<u64>,
    /// The frame that was loaded at the start of RAM, where vCPU 0 begins.
    pub first_page: u64,
}

impl<'w> Guest<'w> {
    /// A VM with all its vCPUs and metadata enough for anything, not sealed, nothing in it.
    #[track_caller]
    pub fn create(world: &'w World, config: VmConfig) -> Self {
        Self::with_meta(world, config, 32)
    }

    /// As [`Guest::create`], with `meta` frames of metadata, of which each vCPU takes one.
    #[track_caller]
    pub fn with_meta(world: &'w World, config: VmConfig, meta: u64) -> Self {
        let handle = world.create(&config, meta);
        let mut guest = Self { world, handle, config, run_pages: Vec::new(), first_page: 0 };
        for index in 0..config.vcpu_count {
            let page = world.page();
            world.ok(host::VCPU_CREATE, [handle, index, page]);
            guest.run_pages.push(page);
        }
        guest
    }

    /// A VM that can run: one page loaded at the start of its RAM, sealed.
    #[track_caller]
    pub fn sealed(world: &'w World, dialect: u64, vcpus: u64) -> Self {
        let mut guest = Self::create(world, World::config(dialect, vcpus));
        guest.seal();
        guest
    }

    /// A running realm, a page of it at page 1 and a block of it at page 512.
    #[track_caller]
    pub fn scene(world: &'w World) -> (Self, u64, u64) {
        let guest = Self::sealed(world, dialect::REALM, 1);
        let page = guest.donate(guest.ipa(1));
        let block = guest.donate_block(guest.ipa(512));
        (guest, page, block)
    }

    /// Loads a page at the start of RAM and seals.
    #[track_caller]
    pub fn seal(&mut self) {
        self.first_page = self.world.filled(0x1457);
        self.load(self.first_page, self.ipa(0));
        self.world.ok(host::VM_SEAL, [self.handle, self.ipa(0), 0]);
    }

    /// Guest physical address of page `n` of RAM.
    pub fn ipa(&self, n: u64) -> u64 {
        self.config.ram_base + n * FRAME_SIZE
    }

    /// The address bit of the shared half; 0 when there is none.
    pub fn alias(&self) -> u64 {
        match self.config.dialect {
            dialect::REALM => 1 << (rsi::IPA_BITS - 1),
            dialect::TDX => 1 << (arch::machine::ipa_bits() - 1),
            _ => 0,
        }
    }

    /// Loads a frame.
    #[track_caller]
    pub fn load(&self, page: u64, ipa: u64) {
        self.world.ok(host::VM_LOAD, [self.handle, page, ipa]);
    }

    /// Gives a new frame for `ipa` and says which.
    #[track_caller]
    pub fn donate(&self, ipa: u64) -> u64 {
        let page = self.world.filled(0xD0);
        self.world.ok(host::VM_DONATE, [self.handle, page, ipa, 1]);
        page
    }

    /// Gives a new block for `ipa` and says which.
    #[track_caller]
    pub fn donate_block(&self, ipa: u64) -> u64 {
        let block = self.world.block();
        self.world.ok(host::VM_DONATE, [self.handle, block, ipa, 512]);
        block
    }

    /// Access to a vCPU's registers and program. Not while it runs.
    pub fn vcpu<R>(&self, index: u64, f: impl FnOnce(&mut Vcpu) -> R) -> R {
        let answer = self.world.postern.vms.with(self.handle, |vm| Ok(f(&mut vm.vcpu(index)?.own.lock().0)));
        answer.expect("the vCPU exists")
    }

    /// Adds instructions to a vCPU's program.
    pub fn program(&self, index: u64, instructions: impl IntoIterator<Item = Instruction>) {
        self.vcpu(index, |vcpu| vcpu.push(instructions));
    }

    /// Runs a vCPU; an exit reason.
    #[track_caller]
    pub fn run(&self, index: u64) -> u64 {
        self.world.ok(host::VCPU_RUN, [self.handle, index])
    }

    /// Runs a vCPU with more to do; an exit reason.
    #[track_caller]
    pub fn does(&self, index: u64, instructions: impl IntoIterator<Item = Instruction>) -> u64 {
        self.program(index, instructions);
        self.run(index)
    }

    /// The way in which guests of this dialect make calls.
    pub fn conduit(&self) -> Conduit {
        match self.config.dialect {
            dialect::REALM => Conduit::Smc,
            dialect::TDX => Conduit::Tdcall,
            _ => Conduit::Hvc,
        }
    }

    /// A guest call, as instructions. Registers that it does not name hold rubbish, so that results that were never
    /// written show.
    pub fn instructions(&self, registers: &[u64]) -> [Instruction; 2] {
        let mut all = registers.to_vec();
        all.resize(all.len().max(4), 0);
        [Instruction::Set(all), Instruction::Call(self.conduit())]
    }

    /// A call of vCPU 0 that needs nothing from the host: x0 to x3.
    #[track_caller]
    pub fn call(&self, registers: &[u64]) -> [u64; 4] {
        self.call_of(0, registers)
    }

    /// A call of vCPU `index` that needs nothing from the host: x0 to x3.
    #[track_caller]
    pub fn call_of(&self, index: u64, registers: &[u64]) -> [u64; 4] {
        let why = self.does(index, self.instructions(registers));
        assert_eq!(why, exit::WAIT, "call {registers:#x?} left for the host");
        self.x(index)
    }

    /// x0 to x3.
    pub fn x(&self, index: u64) -> [u64; 4] {
        self.vcpu(index, |vcpu| core::array::from_fn(|n| vcpu.x(n)))
    }

    /// A word of a vCPU's run page.
    pub fn word(&self, index: u64, word: usize) -> u64 {
        self.world.content(self.run_pages[index as usize])[word].load(Relaxed)
    }

    /// Sets a word of a vCPU's run page.
    pub fn set_word(&self, index: u64, word: usize, value: u64) {
        self.world.content(self.run_pages[index as usize])[word].store(value, Relaxed);
    }

    /// A stage-2 fault without a decoded operand.
    pub fn touch(address: u64) -> Abort {
        Abort { address, write: false, fetch: false, walk: false, access: None }
    }

    /// A device access of four bytes: a read into x`rt`, or a write.
    pub fn device(address: u64, rt: usize, value: Option<u64>) -> Abort {
        let access = MmioAccess { size: 4, value, rt, sign_extend: false, wide: false };
        Abort { write: value.is_some(), access: Some(access), ..Self::touch(address) }
    }

    /// What the run page says of a memory fault: address, and 1 for shared.
    pub fn fault(&self, index: u64) -> (u64, u64) {
        (self.word(index, run::ADDRESS), self.word(index, run::SHARED))
    }

    fn root(&self) -> (Space, guestmem::Pfn) {
        let root = self.world.postern.vms.with(self.handle, |vm| Ok((Space::Guest(vm.memory.id()), vm.memory.root())));
        root.expect("the VM exists")
    }

    /// Reads a word as the guest does; `None` when that faults. Realms set the alias bit themselves.
    pub fn reads(&self, address: u64) -> Option<u64> {
        let (space, root) = self.root();
        self.world.postern.core.machine.load(space, root, address)
    }

    /// Writes a word as the guest does; false when that faults.
    pub fn writes(&self, address: u64, value: u64) -> bool {
        let (space, root) = self.root();
        self.world.postern.core.machine.store(space, root, address, value)
    }

    /// `VM_INFO` as words.
    pub fn info(&self) -> [u64; 13] {
        let out = self.world.page();
        self.world.ok(host::VM_INFO, [self.handle, out]);
        core::array::from_fn(|n| self.world.content(out)[n].load(Relaxed))
    }

    /// The launch measurement as the host sees it.
    pub fn measurement(&self) -> [u64; 6] {
        self.info()[5..11].try_into().expect("six words")
    }

    /// Makes a page shared or private by the guest's own call, and asserts that it worked.
    #[track_caller]
    pub fn share(&self, ipa: u64, shared: bool) {
        if self.config.dialect == dialect::TDX {
            self.td_share(ipa, shared);
        } else if self.config.dialect == dialect::REALM {
            let ripas = if shared { rsi::RIPAS_EMPTY } else { rsi::RIPAS_RAM };
            assert_eq!(self.call(&[rsi::IPA_STATE_SET, ipa, ipa + FRAME_SIZE, ripas])[..3], [0, ipa + FRAME_SIZE, 0]);
        } else {
            let call = if shared { abi::pkvm::MEM_SHARE } else { abi::pkvm::MEM_UNSHARE };
            assert_eq!(self.call(&[call, ipa]), [0; 4]);
        }
    }

    /// Destroys the VM and takes everything back.
    #[track_caller]
    pub fn end(&self) {
        self.world.ok(host::VM_DESTROY, [self.handle]);
        self.world.ok(host::VM_RECLAIM, [self.handle]);
    }
}
