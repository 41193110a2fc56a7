//! What the attacks are made on: a victim guest that has run and now rests, addresses of every kind, and toy VMs.

use crate::bundle::Bundle;
use crate::launch::{self, Software};
use crate::memory::{Give, GuestMemory};
use crate::vm::{End, Shape, Vm};
use crate::{exits, frames, remote, run, teardown};
use abi::host::{self, frame};
use abi::{BLOCK_SIZE, FRAME_SIZE};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use payloads::{Boot, hostcall, say, timer};

/// RAM of the victim and of toys, in bytes.
const VICTIM_MEMORY: u64 = 32 << 20;
/// RAM of a toy.
pub const TOY_MEMORY: u64 = 8 << 20;
/// vCPUs of a toy.
const TOY_VCPUS: u64 = 2;
/// Metadata frames of a toy.
pub const TOY_META: u64 = 24;
/// How long the victim may take to get ready.
const PATIENCE_MS: u64 = 20_000;

/// The scene.
pub struct Scene {
    kernel: &'static [u8],
    /// The guest under attack; it has one vCPU, which does not run.
    pub victim: Arc<Vm>,
    /// A private frame of the victim.
    pub private: u64,
    /// A frame that the victim shares.
    pub shared: u64,
    /// A metadata frame of the victim.
    pub meta: u64,
    /// The victim's run page.
    pub run_page: u64,
    /// A frame of Postern's own.
    pub postern: u64,
    /// Registers of a device: the interrupt controller.
    pub device: u64,
    /// An address with nothing behind it.
    pub hole: u64,
    /// All RAM, Postern's included.
    pub ram: Range<u64>,
    /// Dialect of the victim and the toys.
    pub dialect: u64,
}

impl Scene {
    /// Launches the victim and looks around.
    pub fn new(bundle: &Bundle, boot: &Boot) -> Result<Self, String> {
        let kernel = bundle.tiny_guest()?;
        let dialect = run::shape(bundle)?.dialect;
        let victim = launch_victim(kernel, dialect)?;
        let find = |wanted: u64| {
            let memory = victim.memory.lock();
            let found = memory.given().map(|(_, pa)| pa).find(|pa| hostcall::frame_state(*pa) == wanted);
            found.ok_or_else(|| format!("the victim has no frame of state {wanted}"))
        };
        let (private, shared) = (find(frame::PRIVATE)?, find(frame::SHARED)?);
        let meta = victim.memory.lock().meta().next().ok_or("the victim has no metadata")?;
        let memory = &boot.machine.memory;
        let start = memory.iter().map(|range| range.start).min().unwrap_or(0) & !((1 << 30) - 1);
        let end = memory.iter().map(|range| range.end).max().unwrap_or(0);
        let postern = (start..end).step_by(FRAME_SIZE as usize).find(|pa| hostcall::frame_state(*pa) == frame::POSTERN);
        Ok(Self {
            kernel,
            private,
            shared,
            meta,
            run_page: victim.vcpus[0].page,
            postern: postern.ok_or("Postern has no memory of its own in sight")?,
            device: boot.machine.distributor,
            hole: end + (64 << 30),
            ram: start..end,
            dialect,
            victim,
        })
    }

    /// Another guest like the victim.
    pub fn another_victim(&self) -> Result<Arc<Vm>, String> {
        launch_victim(self.kernel, self.dialect)
    }

    /// A small VM that is not sealed and has no memory.
    pub fn toy(&self) -> Result<Toy, String> {
        let shape = self.toy_shape();
        let memory =
            launch::create(&shape, TOY_META).map_err(|status| format!("VM_CREATE of a toy answers {status}"))?;
        Ok(Toy { handle: memory.handle(), memory, frames: Vec::new(), blocks: Vec::new(), gone: false })
    }

    /// What toys are.
    pub fn toy_shape(&self) -> Shape {
        Shape { dialect: self.dialect, vcpus: TOY_VCPUS, memory: TOY_MEMORY, give: Give::Page }
    }

    /// Addresses that no frame of the host's has: nothing, a device, beyond every address.
    pub fn not_ram(&self) -> [u64; 5] {
        [self.hole, self.device, 1 << 47, 1 << 52, u64::MAX - FRAME_SIZE + 1]
    }

    /// Ends the victim; everything has to come back.
    pub fn leave(self) -> Result<(), String> {
        self.victim.finish(End::Off);
        teardown::teardown(&self.victim)
    }
}

/// Launches the tiny guest as a victim and lets it run until it says that it is ready.
fn launch_victim(kernel: &[u8], dialect: u64) -> Result<Arc<Vm>, String> {
    let shape = Shape { dialect, vcpus: 1, memory: VICTIM_MEMORY, give: Give::Page };
    let software = Software { kernel, initrd: None, arguments: "test=victim", seed: 1 };
    let vm = launch::launch(&shape, &software, 0)?;
    let end = timer::now() + timer::ticks(PATIENCE_MS);
    while !vm.ready() {
        exits::run_once(&vm, &vm.vcpus[0]);
        remote::service_interrupts();
        if vm.ended() || timer::now() > end {
            return Err(format!("the victim does not get ready: {:?}", vm.end()));
        }
    }
    Ok(vm)
}

/// A small VM for one attack; it goes away with all it was given.
pub struct Toy {
    /// Its handle.
    pub handle: u64,
    memory: GuestMemory,
    frames: Vec<u64>,
    blocks: Vec<u64>,
    gone: bool,
}

impl Toy {
    /// The first address of its RAM.
    pub const RAM: u64 = crate::platform::RAM_BASE;

    /// A zeroed host frame, freed with the toy, whoever has it by then.
    pub fn frame(&mut self) -> Result<u64, String> {
        let frame = frames::zeroed_frame().ok_or("the host is out of memory")?;
        self.frames.push(frame);
        Ok(frame)
    }

    /// A block of host memory, freed with the toy.
    pub fn block(&mut self) -> Result<u64, String> {
        let block = frames::block().ok_or("the host is out of memory")?;
        self.frames.extend((block..block + BLOCK_SIZE).step_by(FRAME_SIZE as usize));
        Ok(block)
    }

    /// Has a block of host memory freed with the toy.
    pub fn keep_block(&mut self, block: u64) {
        self.blocks.push(block);
    }

    /// Gives frame `pa` for page `page`.
    pub fn donate(&self, pa: u64, page: u64) -> i64 {
        hostcall::vm_donate(self.handle, pa, Self::RAM + page * FRAME_SIZE, 1)
    }

    /// Gives it the vCPUs without which it cannot be sealed.
    pub fn add_vcpu(&mut self) -> Result<(), String> {
        for index in 0..if crate::platform::ALL_START { TOY_VCPUS } else { 1 } {
            let page = self.frame()?;
            match hostcall::vcpu_create(self.handle, index, page) {
                host::OK => {}
                status => return Err(format!("VCPU_CREATE answers {status}")),
            }
        }
        Ok(())
    }

    /// Seals it; it needs a vCPU.
    pub fn seal(&self) -> i64 {
        hostcall::vm_seal(self.handle, Self::RAM, 0)
    }

    /// Destroys it now and checks that its frames are the host's again, and zero.
    pub fn destroy(&mut self) -> Result<(), String> {
        self.gone = true;
        teardown::destroy(self.handle)?;
        for frame in self.frames.iter().copied().chain(self.memory.meta()) {
            teardown::check_returned(frame)?;
        }
        Ok(())
    }

    /// The attack destroyed it itself.
    pub fn set_gone(&mut self) {
        self.gone = true;
    }
}

impl Drop for Toy {
    fn drop(&mut self) {
        if !self.gone {
            // The attack may have destroyed it already.
            hostcall::vm_destroy(self.handle);
            if hostcall::vm_reclaim(self.handle) != host::OK {
                say!("host: toy {:#x} is lost", self.handle);
            }
        }
        self.memory.release();
        self.frames.drain(..).for_each(frames::free_returned);
        self.blocks.drain(..).for_each(frames::free_block);
    }
}
