//! Four VMs, a host that means no good, and marks in memory that show when something is where it may not be.

use crate::{Guest, Noise, World};
use abi::host::{self, VmConfig, dialect};
use abi::run::{self, exit};
use abi::{BLOCK_SIZE, FRAME_SIZE, psci};
use arch::machine::Instruction;
use arch::{Abort, Conduit, MmioAccess};
use guestmem::{Pfn, State, Visibility};

/// What guests write into private pages: with the number of the guest in the low bits.
const SECRET: u64 = 0x5EC2_E700_0000_0000;
/// What the host writes wherever it can.
const MARK: u64 = 0x4057_4057_4057_4057;
/// Where in a page: a word that no call of the guest's own has answers in but zero, neither RSI_REALM_CONFIG nor
/// RSI_HOST_CALL, nor TDG.MR.REPORT.
const WORD: u64 = 5 * abi::rsi::HOST_CALL_SIZE;
/// The TD among the guests.
const TD: usize = 2;
/// The guest that is not sealed.
const UNSEALED: usize = 3;
/// What [`Guest::seal`] loads.
const LAUNCH: u64 = 0x1457;

/// The world of a fuzz target.
pub struct Scene<'w> {
    world: &'w World,
    guests: Vec<Guest<'w>>,
    /// VMs that the fuzzer has created.
    created: Vec<u64>,
    /// Frames worth trying: of every owner.
    frames: Vec<u64>,
}

impl<'w> Scene<'w> {
    /// A realm, a pKVM guest and a TD that run, and a pKVM guest that is not sealed.
    pub fn new(world: &'w World) -> Self {
        let mut frames = vec![0x4000_0000, 0x4001_0000, 0x4010_0000, 0, 0x41FF_F000, 0x4200_0000, 0x803F_F000];
        let mut guests = Vec::new();
        for (dialect, vcpus) in [(dialect::REALM, 2), (dialect::PKVM, 2), (dialect::TDX, 2)] {
            let guest = Guest::sealed(world, dialect, vcpus);
            frames.push(guest.first_page);
            frames.extend((1..4).map(|n| guest.donate(guest.ipa(n))));
            guest.share(guest.ipa(2), true);
            let block = guest.donate_block(guest.ipa(512));
            frames.extend([block, block + 77 * FRAME_SIZE]);
            guests.push(guest);
        }
        world.ok(host::PIN, [frames[9]]);
        let new = Guest::create(world, World::config(dialect::PKVM, 1));
        let half = world.page();
        assert_eq!(world.call(host::VM_LOAD, [new.handle, half, new.ipa(0)]).0, host::MORE);
        frames.extend([half, new.donate(new.ipa(5))]);
        guests.push(new);
        frames.extend(guests.iter().flat_map(|guest| guest.run_pages.clone()));
        frames.extend((0..16).map(|_| world.page()));
        frames.extend((0..3).map(|_| world.block()));
        // The last one is a good configuration: see `Scene::arguments`.
        frames.push(world.config_page(&World::config(dialect::REALM, 2)));
        Self { world, guests, created: Vec::new(), frames }
    }

    pub(super) fn number(noise: &mut Noise<'_>) -> u64 {
        match noise.below(8) {
            0 => noise.any(),
            1 => 1 << noise.below(64),
            2 => u64::MAX - noise.below(3) * 2048,
            _ => noise.pick(&[0, 1, 2, 3, 4, 7, 8, 9, 31, 32, 33, 39, 40, 41, 64, 511, 512, 513, 4096]),
        }
    }

    /// A host physical address.
    fn frame(&self, noise: &mut Noise<'_>) -> u64 {
        match noise.below(16) {
            0 => Self::number(noise),
            1 => (noise.pick(&self.frames) & !0xfff) + noise.pick(&[1, 8, 2048, 4095]),
            2 => noise.pick(&self.frames) & !(BLOCK_SIZE - 1),
            3 => noise.pick(&self.frames).wrapping_add(FRAME_SIZE * noise.below(1024)).wrapping_sub(BLOCK_SIZE),
            _ => noise.pick(&self.frames),
        }
    }

    /// A guest physical address.
    pub(super) fn ipa(noise: &mut Noise<'_>) -> u64 {
        let page =
            0x4000_0000 + FRAME_SIZE * noise.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 511, 512, 600, 1023, 1024, 1536, 8191]);
        match noise.below(16) {
            0 => Self::number(noise),
            1 => page + noise.pick(&[1, 4, 8, 256, 2048, 4095]),
            2 => page | 1 << 39,
            3 => noise.pick(&[0x0800_0000, 0x080A_0000, 0x0900_0000, 0x4200_0000, 1 << 39, 1 << 40, 0x3FFF_F000]),
            _ => page,
        }
    }

    fn handle(&self, noise: &mut Noise<'_>) -> u64 {
        match noise.below(16) {
            0 => Self::number(noise),
            1 => self.guests[0].handle + noise.below(40),
            2 | 3 if !self.created.is_empty() => noise.pick(&self.created),
            _ => self.guests[noise.below(self.guests.len() as u64) as usize].handle,
        }
    }

    /// Arguments for a host call: each is usually of the kind that the call wants there.
    fn arguments(&self, number: u64, noise: &mut Noise<'_>) -> [u64; 6] {
        let mut arguments: [u64; 6] = core::array::from_fn(|_| Self::number(noise));
        let [a, b, c, d, ..] = &mut arguments;
        match number {
            host::POOL_TOPUP | host::PIN | host::UNPIN | host::FRAME_INFO | host::COUNTERS | host::LOG_READ => {
                *a = self.frame(noise);
            }
            host::VM_CREATE => {
                *a = if noise.one_in(2) { self.frames[self.frames.len() - 1] } else { self.frame(noise) };
                *b = self.frame(noise) & !noise.pick(&[FRAME_SIZE, 0]);
                *c = noise.pick(&[4, 5, 8, 32, *c]);
            }
            host::VM_DONATE_META | host::VM_INFO => (*a, *b) = (self.handle(noise), self.frame(noise)),
            host::VM_DONATE | host::VM_LOAD => {
                (*a, *b, *c) = (self.handle(noise), self.frame(noise), Self::ipa(noise));
                *d = noise.pick(&[1, 1, 1, 512, *d]);
                if *d == 512 && !noise.one_in(4) {
                    (*b, *c) = (*b & !(BLOCK_SIZE - 1), *c & !(BLOCK_SIZE - 1));
                }
            }
            host::VM_SEAL => (*a, *b) = (self.handle(noise), Self::ipa(noise)),
            host::VCPU_CREATE => (*a, *c) = (self.handle(noise), self.frame(noise)),
            host::VCPU_RUN | host::VCPU_KICK | host::VM_IRQ => *a = self.handle(noise),
            // Seldom in earnest, or there is soon nobody left.
            host::VM_DESTROY | host::VM_RECLAIM if noise.one_in(4) => *a = self.handle(noise),
            _ => {}
        }
        arguments
    }

    /// Makes a host call.
    pub fn host_call(&mut self, number: u64, noise: &mut Noise<'_>) {
        let arguments = self.arguments(number, noise);
        // A configuration that can be used, sometimes with one word spoilt.
        if number == host::VM_CREATE && noise.one_in(2) {
            let config = VmConfig { vcpu_count: noise.pick(&[1, 2, 8]), ..World::config(noise.pick(&[1, 2, 3]), 1) };
            let words = [
                config.dialect,
                config.vcpu_count,
                config.ram_base,
                config.ram_size,
                config.gicd_base,
                config.gicr_base,
            ];
            let spoilt = noise.below(12) as usize;
            for (index, word) in words.into_iter().enumerate() {
                let word = if index == spoilt { Self::number(noise) } else { word };
                self.world.host_writes((arguments[0] & !0xfff) + index as u64 * 8, word);
            }
        }
        let times = if noise.one_in(4) { 20 } else { 1 };
        for _ in 0..times {
            let (status, [handle, ..]) = self.world.call(number, arguments);
            if (number, status) == (host::VM_CREATE, host::OK) {
                self.created.push(handle);
            }
            if status != host::MORE {
                break;
            }
        }
    }

    fn alive(&self, guest: &Guest<'_>) -> bool {
        self.world.postern.vms.with(guest.handle, |vm| vm.vcpu(0).map(|_| ())).is_ok()
    }

    /// A guest that is there, and one of its vCPUs.
    fn guest(&self, noise: &mut Noise<'_>) -> Option<(&Guest<'w>, u64)> {
        self.vcpu_of(noise.below(self.guests.len() as u64) as usize, noise)
    }

    /// The TD, if it is there, and one of its vCPUs.
    pub(super) fn td(&self, noise: &mut Noise<'_>) -> Option<(&Guest<'w>, u64)> {
        self.vcpu_of(TD, noise)
    }

    fn vcpu_of(&self, number: usize, noise: &mut Noise<'_>) -> Option<(&Guest<'w>, u64)> {
        let guest = &self.guests[number];
        self.alive(guest).then(|| (guest, noise.below(guest.config.vcpu_count)))
    }

    /// Makes a guest call, and helps as a host does that is not quite sure how.
    pub fn guest_call(&mut self, function: u64, noise: &mut Noise<'_>) {
        let Some((guest, index)) = self.guest(noise) else { return };
        let mut registers = vec![function];
        for _ in 1..12 {
            registers.push(if noise.one_in(2) { Self::ipa(noise) } else { Self::number(noise) });
        }
        match function {
            psci::CPU_ON => registers[1] = noise.pick(&[0, 1, registers[1]]),
            // Mostly pages that are there, so that much is converted.
            abi::pkvm::MEM_SHARE | abi::pkvm::MEM_UNSHARE if !noise.one_in(4) => {
                registers[1] = 0x4000_0000 + FRAME_SIZE * noise.below(5);
            }
            abi::rsi::IPA_STATE_SET if !noise.one_in(4) => {
                registers[1] = 0x4000_0000 + FRAME_SIZE * noise.pick(&[0, 1, 2, 3, 4, 510, 512, 600]);
                registers[2] = registers[1] + FRAME_SIZE * noise.pick(&[1, 1, 2, 3, 512]);
                registers[3] = noise.below(2);
            }
            _ => {}
        }
        if guest.config.dialect == dialect::PKVM && !noise.one_in(4) {
            registers[2..4].fill(0);
        }
        let usual = guest.conduit();
        let conduit = if noise.one_in(16) { noise.pick(&[Conduit::Hvc, Conduit::Smc, Conduit::Tdcall]) } else { usual };
        let quick = noise.one_in(2);
        guest.vcpu(index, |vcpu| {
            vcpu.quick = quick;
            vcpu.push([Instruction::Set(registers), Instruction::Call(conduit)]);
        });
        self.serve(guest, index, noise);
    }

    /// A guest touches an address.
    pub fn abort(&mut self, noise: &mut Noise<'_>) {
        let Some((guest, index)) = self.guest(noise) else { return };
        let access = (!noise.one_in(3)).then(|| MmioAccess {
            size: noise.pick(&[1, 2, 4, 8]),
            value: noise.one_in(2).then(|| noise.any()),
            rt: noise.below(32) as usize,
            sign_extend: noise.one_in(2),
            wide: noise.one_in(2),
        });
        let (write, fetch) = (noise.one_in(2), noise.one_in(4));
        let abort = Abort { address: Self::ipa(noise), write, fetch, walk: noise.one_in(8), access };
        guest.program(index, [Instruction::Access(abort)]);
        self.serve(guest, index, noise);
    }

    pub(super) fn serve(&self, guest: &Guest<'_>, index: u64, noise: &mut Noise<'_>) {
        for _ in 0..8 {
            let (status, [reason, ..]) = self.world.call(host::VCPU_RUN, [guest.handle, index]);
            if status != host::OK || noise.one_in(8) {
                return;
            }
            let page = guest.run_pages[index as usize];
            match reason {
                exit::MEMORY_FAULT => {
                    let address = self.world.host_reads(page + run::ADDRESS as u64 * 8).unwrap_or(0);
                    self.world.call(host::VM_DONATE, [guest.handle, self.frame(noise), address, 1]);
                }
                exit::NEED_META => {
                    self.world.call(host::VM_DONATE_META, [guest.handle, self.frame(noise), 1 + noise.below(4)]);
                }
                exit::HOST_CALL | exit::MMIO_READ | exit::IO_READ => {
                    (0..64).for_each(|word| assert!(self.world.host_writes(page + word * 8, noise.any())));
                }
                exit::WAIT | exit::FAILED | exit::SYSTEM_OFF => return,
                _ => {}
            }
        }
    }

    /// All invariants, and that nobody sees what is not theirs. Everybody touches what they can on the way, so that the
    /// TLBs are full of what must be flushed.
    pub fn check(&mut self, noise: &mut Noise<'_>) {
        self.world.audit();
        for (number, guest) in self.guests.iter().enumerate() {
            if !self.alive(guest) {
                continue;
            }
            for page in [0, 1, 2, 3, 5, 512, 600, noise.below(8192)] {
                let own = SECRET | number as u64;
                let (ipa, private) = (guest.ipa(page), self.is_private(guest, page));
                let seen = guest.reads(ipa + WORD);
                if private {
                    let launched = [Some(0), Some(own), Some(LAUNCH), None];
                    // The guest that is not sealed may be given anything by the host.
                    assert!(
                        number == UNSEALED || launched.contains(&seen),
                        "guest {number} reads {seen:x?} at {ipa:#x}"
                    );
                    guest.writes(ipa + WORD, own);
                }
                assert!(seen.is_none_or(|value| value == own || value & !0xff != SECRET), "another guest's secret");
                guest.reads((ipa + WORD) | guest.alias());
            }
        }
        for frame in
            self.frames.iter().map(|frame| frame & !0xfff).chain([0x4020_0000 + FRAME_SIZE * noise.below(0x1E00)])
        {
            let seen = self.world.host_reads(frame + WORD);
            assert!(seen.is_none_or(|value| value & !0xff != SECRET), "the host reads a secret at {frame:#x}");
            if self.world.postern.core.lookup(Pfn::from_addr(frame)).state == State::Shared {
                assert!(self.world.host_writes(frame + WORD, MARK), "shared, but not with the host");
            }
        }
    }

    fn is_private(&self, guest: &Guest<'_>, page: u64) -> bool {
        let private = self.world.postern.vms.with(guest.handle, |vm| {
            let gfn = vm.ram(guest.ipa(page)).ok_or(hypervisor::Refused::Unknown)?;
            let core = &self.world.postern.core;
            // Of a dying VM nothing is said any more.
            Ok(!vm.memory.is_dying()
                && core.visibility(&vm.memory, gfn) == Visibility::Private
                && core.is_populated(&vm.memory, gfn))
        });
        private == Ok(true)
    }

    /// Ends every VM there is, and checks that all they had is the host's again, but for what it holds or gave to Postern.
    pub fn end(self) {
        for handle in self.guests.iter().map(|guest| guest.handle).chain(self.created) {
            self.world.call(host::VM_DESTROY, [handle]);
            assert!(matches!(self.world.finish(host::VM_RECLAIM, [handle]).0, host::OK | host::NO_SUCH));
        }
        self.world.check();
        for frame in (0x4020_0000..0x4200_0000).step_by(FRAME_SIZE as usize) {
            let record = self.world.postern.core.lookup(Pfn::from_addr(frame));
            assert!(matches!(record.state, State::Host | State::Postern), "{frame:#x} is {record:?}");
            let seen = self.world.host_reads(frame + WORD);
            assert!(seen.is_none_or(|value| value & !0xff != SECRET), "a secret outlived its guest at {frame:#x}");
        }
    }
}
