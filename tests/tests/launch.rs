//! Measured launch: the same input gives the same measurement, anything else another one.

use abi::host::{self, VmConfig, dialect};
use core::sync::atomic::Ordering::Relaxed;
use hypervisor::measure::CHUNKS;
use sha2::{Digest, Sha384};
use tests::{Guest, World};

#[derive(Clone, Debug)]
struct Launch {
    config: VmConfig,
    /// Guest page number and what its words are counted from.
    pages: Vec<(u64, u64)>,
    entry: u64,
    argument: u64,
    /// Frames to use up before, so that host addresses differ.
    skip: u64,
}

impl Launch {
    fn new() -> Self {
        let config = World::config(dialect::REALM, 2);
        Self { config, pages: vec![(0, 100), (7, 200)], entry: config.ram_base, argument: 1, skip: 0 }
    }

    fn content(from: u64) -> [u64; 512] {
        core::array::from_fn(|n| from * 1000 + n as u64)
    }

    fn measurement(&self) -> [u64; 6] {
        let world = World::new();
        if self.skip != 0 {
            world.pages(self.skip);
        }
        let guest = Guest::create(&world, self.config);
        for (page, from) in &self.pages {
            let frame = world.page();
            for (to, word) in world.content(frame).iter().zip(Self::content(*from)) {
                to.store(word, Relaxed);
            }
            guest.load(frame, guest.ipa(*page));
        }
        assert_eq!(guest.measurement(), [0; 6], "not before it is closed");
        world.ok(host::VM_SEAL, [guest.handle, self.entry, self.argument]);
        world.check();
        guest.measurement()
    }
}

#[test]
fn the_same_input_has_the_same_measurement_wherever_the_host_keeps_it() {
    let launch = Launch::new();
    assert_eq!(launch.measurement(), launch.measurement());
    assert_eq!(launch.measurement(), Launch { skip: 33, ..launch.clone() }.measurement());
    assert_ne!(launch.measurement(), [0; 6]);
}

#[test]
fn whatever_is_changed_changes_the_measurement() {
    let base = Launch::new();
    let config = base.config;
    let with = |config| Launch { config, ..base.clone() };
    let variants = [
        with(VmConfig { dialect: dialect::PKVM, ..config }),
        with(VmConfig { vcpu_count: 1, ..config }),
        with(VmConfig { ram_size: config.ram_size + (2 << 20), ..config }),
        with(VmConfig { gicd_base: 0x0700_0000, ..config }),
        with(VmConfig { gicr_base: 0x0A00_0000, ..config }),
        Launch { pages: vec![(0, 100), (7, 201)], ..base.clone() },
        Launch { pages: vec![(0, 100), (8, 200)], ..base.clone() },
        Launch { pages: vec![(7, 200), (0, 100)], ..base.clone() },
        Launch { pages: vec![(0, 100)], ..base.clone() },
        Launch { pages: vec![(0, 100), (7, 200), (9, 0)], ..base.clone() },
        Launch { entry: base.entry + 4, ..base.clone() },
        Launch { argument: 2, ..base.clone() },
    ];
    let mut seen = vec![base.measurement()];
    for launch in variants {
        let measurement = launch.measurement();
        assert!(!seen.contains(&measurement), "{launch:?}");
        seen.push(measurement);
    }
}

#[test]
fn the_measurement_is_what_the_documents_say() {
    // What a verifier computes: configuration, then for each piece of a page its address with the number of the piece
    // in the low bits and its content, then entry and argument; all as little-endian 64-bit words.
    let launch = Launch::new();
    let config = &launch.config;
    let mut words = vec![config.dialect, config.vcpu_count, config.ram_base, config.ram_size];
    words.extend([config.gicd_base, config.gicr_base]);
    for (page, from) in &launch.pages {
        for (chunk, content) in Launch::content(*from).chunks(512 / CHUNKS as usize).enumerate() {
            words.push((config.ram_base + page * 4096) | chunk as u64);
            words.extend(content);
        }
    }
    words.extend([launch.entry, launch.argument]);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let digest = Sha384::digest(&bytes);
    let expected: [u64; 6] = core::array::from_fn(|n| u64::from_le_bytes(digest[n * 8..][..8].try_into().unwrap()));
    assert_eq!(launch.measurement(), expected);
}

#[test]
fn frames_loaded_in_turns_cannot_pass_for_another_image() {
    // Two images that are one stream of bytes when the frames of the first are loaded in turns: what is the second
    // frame's address there is a word of the first frame here, and the other way round. Only that each piece says where
    // it belongs tells them apart.
    let config = World::config(dialect::PKVM, 1);
    let (a, b) = (config.ram_base, config.ram_base + 4096);
    let piece = 512 / CHUNKS as usize;
    let measure = |in_turns: bool| {
        let world = World::new();
        let guest = Guest::create(&world, config);
        let (frame_a, frame_b) = (world.page(), world.page());
        let (marked, at) = if in_turns { (frame_b, 512 - piece - 1) } else { (frame_a, piece) };
        world.content(marked)[at].store(b, Relaxed);
        let step = |frame, ipa| world.call(host::VM_LOAD, [guest.handle, frame, ipa]).0;
        if in_turns {
            assert_eq!(step(frame_a, a), host::MORE);
            while step(frame_b, b) == host::MORE {}
        }
        while step(frame_a, a) == host::MORE {}
        if !in_turns {
            while step(frame_b, b) == host::MORE {}
        }
        world.ok(host::VM_SEAL, [guest.handle, a, 0]);
        guest.measurement()
    };
    assert_ne!(measure(true), measure(false));
}

#[test]
fn what_is_added_after_sealing_is_zero_and_not_measured() {
    let world = World::new();
    let guest = Guest::sealed(&world, dialect::REALM, 1);
    let before = guest.measurement();
    guest.donate(guest.ipa(1));
    guest.donate_block(guest.ipa(512));
    assert_eq!(guest.measurement(), before);
    assert_eq!(guest.reads(guest.ipa(1)), Some(0), "invariant 6");
    assert_eq!(guest.call(&[abi::rsi::MEASUREMENT_READ, 0])[1..], before[..3]);
}
