//! Every host call: what it does when it works, and each way in which it refuses.

use abi::host::{VmConfig, counter, frame, *};
use abi::{BLOCK_SIZE, FRAME_SIZE};
use core::sync::atomic::Ordering::Relaxed;
use tests::{Guest, NOT_RAM, RAM, World};

const MOST: u64 = FRAMES_PER_CALL;
const POSTERN: u64 = RAM[0].start;

#[test]
fn b8_version_says_what_there_is() {
    let world = World::new();
    assert_eq!(world.call(VERSION, []), (OK, [1, 0b1110, 0]));
}

#[test]
fn unknown_numbers_are_not_supported() {
    let world = World::new();
    for number in [0, 1, BASE - 1, END, END + 1, u64::MAX, 0x8600_FF01, BASE | 1 << 32] {
        assert_eq!(world.refusal(number, []), NOT_SUPPORTED, "{number:#x}");
    }
    assert_eq!(world.counter(counter::HOST_REFUSALS), 8);
}

#[test]
fn pool_topup_takes_host_frames_only() {
    let world = World::new();
    let (guest, page, _) = Guest::scene(&world);
    let before = world.counter(counter::POOL_FREE);
    let given = world.pages(MOST);
    assert_eq!(world.call(POOL_TOPUP, [given, MOST]), (OK, [MOST, 0, 0]));
    assert_eq!(world.counter(counter::POOL_FREE), before + MOST);
    assert_eq!(world.frame(given), (frame::POSTERN, 0));
    assert_eq!(world.host_reads(given), None);
    for (pa, count) in [(given + 1, 1), (given, 0), (given, MOST + 1), (given, u64::MAX)] {
        assert_eq!(world.refusal(POOL_TOPUP, [pa, count]), INVALID);
    }
    for pa in NOT_RAM {
        assert_eq!(world.refusal(POOL_TOPUP, [pa, 1]), ADDRESS, "{pa:#x}");
    }
    for pa in [POSTERN, given, page] {
        assert_eq!(world.refusal(POOL_TOPUP, [pa, 1]), OWNER, "{pa:#x}");
    }
    assert_eq!(world.refusal(POOL_TOPUP, [guest.run_pages[0], 1]), BUSY);
    // Up to the first frame that is not to be had.
    let few = world.pages(4);
    world.ok(POOL_TOPUP, [few + 2 * FRAME_SIZE, 1]);
    assert_eq!(world.call(POOL_TOPUP, [few, 4]), (OK, [2, 0, 0]));
    world.check();
}

#[test]
fn museum_13_a_pool_that_is_used_up_is_said_and_topped_up() {
    let world = World::with_little_pool();
    let guest = Guest::create(&world, World::config(dialect::PKVM, 1));
    let pages: Vec<u64> = (0..12).map(|_| world.block()).collect();
    let refused = pages.iter().enumerate().find_map(|(n, page)| {
        let arguments = [guest.handle, *page, guest.ipa(n as u64), 1];
        (world.call(VM_DONATE, arguments).0 == NO_POOL).then_some(arguments)
    });
    let arguments = refused.expect("the pool lasts for ever");
    assert_eq!(world.refusal(VM_DONATE, arguments), NO_POOL);
    // A frame of a block that is split already costs nothing.
    world.ok(POOL_TOPUP, [world.pages(MOST), MOST]);
    assert_eq!(world.call(VM_DONATE, arguments).0, OK);
    world.check();
}

#[test]
fn vm_create_checks_its_configuration() {
    let world = World::new();
    let good = World::config(dialect::PKVM, 8);
    let bad = [
        VmConfig { dialect: 0, ..good },
        VmConfig { dialect: 3, ..good },
        VmConfig { dialect: u64::MAX, ..good },
        VmConfig { vcpu_count: 0, ..good },
        VmConfig { vcpu_count: 9, ..good },
        VmConfig { vcpu_count: u64::MAX, ..good },
        VmConfig { ram_base: good.ram_base + FRAME_SIZE, ..good },
        VmConfig { ram_base: u64::MAX, ..good },
        VmConfig { ram_base: 0u64.wrapping_sub(BLOCK_SIZE), ..good },
        VmConfig { ram_base: (1 << 39) - BLOCK_SIZE, ..good },
        VmConfig { ram_size: 0, ..good },
        VmConfig { ram_size: FRAME_SIZE, ..good },
        VmConfig { ram_size: GUEST_RAM_MAX + BLOCK_SIZE, ..good },
        VmConfig { ram_size: u64::MAX - BLOCK_SIZE + 1, ..good },
        VmConfig { gicd_base: good.gicd_base + FRAME_SIZE, ..good },
        VmConfig { gicd_base: good.ram_base, ..good },
        VmConfig { gicd_base: u64::MAX - 0xFFFF, ..good },
        VmConfig { gicr_base: good.gicr_base + 1, ..good },
        VmConfig { gicr_base: good.gicd_base, ..good },
        VmConfig { gicr_base: good.gicd_base - 0x1_0000, ..good },
        VmConfig { gicr_base: good.ram_base - 0x1_0000, ..good },
        VmConfig { gicr_base: (1 << 39) - 0x1_0000, ..good },
    ];
    let meta = world.pages(4);
    for config in bad {
        assert_eq!(world.refusal(VM_CREATE, [world.config_page(&config), meta, 4]), INVALID, "{config:x?}");
    }
    let config = world.config_page(&good);
    for (meta, count) in
        [(meta + 1, 4), (meta + FRAME_SIZE, 4), (meta, 3), (meta, 0), (meta, MOST + 1), (meta, u64::MAX)]
    {
        assert_eq!(world.refusal(VM_CREATE, [config, meta, count]), INVALID, "{meta:#x} {count}");
    }
    assert_eq!(world.refusal(VM_CREATE, [config + 8, meta, 4]), INVALID);
    assert_eq!(world.refusal(VM_CREATE, [POSTERN, meta, 4]), OWNER);
    assert_eq!(world.refusal(VM_CREATE, [config, POSTERN, 4]), OWNER);
    for pa in NOT_RAM {
        assert_eq!(world.refusal(VM_CREATE, [pa, meta, 4]), ADDRESS);
        if pa % (2 * FRAME_SIZE) == 0 {
            assert_eq!(world.refusal(VM_CREATE, [config, pa, 4]), ADDRESS, "{pa:#x}");
        }
    }
    world.check_empty();
    let handle = world.ok(VM_CREATE, [config, meta, 4]);
    assert_eq!(world.frame(meta), (frame::META, 0));
    assert_eq!(world.refusal(VM_CREATE, [config, meta, 4]), OWNER, "the same metadata twice");
    world.ok(VM_DESTROY, [handle]);
    world.ok(VM_RECLAIM, [handle]);
    world.check_empty();
}

#[test]
fn vm_create_half_way_gives_back_what_it_took_even_with_an_interrupt_pending() {
    let world = World::new();
    let config = world.config_page(&World::config(dialect::REALM, 1));
    let meta = world.pages(MOST);
    let handle = world.ok(VM_CREATE, [config, world.pages(4), 4]);
    world.ok(VCPU_CREATE, [handle, 0, meta + (MOST - 1) * FRAME_SIZE]);
    for pending in [false, true] {
        world.postern.core.machine.interrupt.store(pending, Relaxed);
        assert_eq!(world.refusal(VM_CREATE, [config, meta, MOST]), BUSY);
        world.check();
        assert!((0..MOST).all(|n| world.frame(meta + n * FRAME_SIZE).0 == frame::HOST));
    }
    world.ok(VM_DESTROY, [handle]);
    world.ok(VM_RECLAIM, [handle]);
    world.check_empty();
}

#[test]
fn vm_create_that_runs_out_of_pool_half_way_leaves_nothing_behind() {
    let world = World::with_little_pool();
    let handle = world.create(&World::config(dialect::PKVM, 1), 16);
    // The metadata lies across two blocks, of which only the first is split when the pool is used up. The lowest blocks of
    // the machine are left alone, so that the two are far from where a search would begin.
    let (second, first) = (world.block(), world.block());
    let config = world.config_page(&World::config(dialect::REALM, 1));
    world.ok(VM_DONATE, [handle, first, 0x4000_0000, 1]);
    let used_up =
        (1..6).any(|n| world.call(VM_DONATE, [handle, world.block(), 0x4000_0000 + n * FRAME_SIZE, 1]).0 == NO_POOL);
    assert!(used_up, "the pool lasts for ever");
    let meta = second - 2 * FRAME_SIZE;
    for pending in [false, true] {
        world.postern.core.machine.interrupt.store(pending, Relaxed);
        assert_eq!(world.refusal(VM_CREATE, [config, meta, 4]), NO_POOL);
        assert!((0..4).all(|n| world.frame(meta + n * FRAME_SIZE).0 == frame::HOST), "interrupt pending: {pending}");
        world.check();
    }
}

#[test]
fn as_many_vms_as_there_are_slots() {
    let world = World::new();
    let config = world.config_page(&World::config(dialect::PKVM, 1));
    let handles: Vec<u64> = (0..VMS_MAX).map(|_| world.ok(VM_CREATE, [config, world.pages(4), 4])).collect();
    let meta = world.pages(4);
    assert_eq!(world.refusal(VM_CREATE, [config, meta, 4]), LIMIT);
    world.check();
    for handle in &handles {
        world.ok(VM_DESTROY, [*handle]);
        world.ok(VM_RECLAIM, [*handle]);
    }
    world.check_empty();
}

#[test]
fn a_slot_that_somebody_looks_at_is_busy_and_not_taken() {
    let world = World::new();
    let (config, meta) = (world.config_page(&World::config(dialect::PKVM, 1)), world.pages(4));
    let audit = world.postern.vms.all().expect("nothing else runs");
    assert_eq!(world.refusal(VM_CREATE, [config, meta, 4]), BUSY);
    drop(audit);
    world.ok(VM_CREATE, [config, meta, 4]);
}

#[test]
fn b7_handles_of_reused_slots_are_dead() {
    let world = World::new();
    let config = world.config_page(&World::config(dialect::PKVM, 1));
    let old = world.ok(VM_CREATE, [config, world.pages(4), 4]);
    world.ok(VM_DESTROY, [old]);
    world.ok(VM_RECLAIM, [old]);
    let new = world.ok(VM_CREATE, [config, world.pages(4), 4]);
    assert_ne!(old, new);
    let page = world.page();
    for handle in [old, new ^ 1, new | 1 << 63, 0, 31, 32, 0xffff, u64::MAX] {
        let refused = [
            world.refusal(VM_DONATE_META, [handle, page, 1]),
            world.refusal(VM_DONATE, [handle, page, 0x4000_0000, 1]),
            world.refusal(VM_LOAD, [handle, page, 0x4000_0000]),
            world.refusal(VM_SEAL, [handle, 0x4000_0000, 0]),
            world.refusal(VCPU_CREATE, [handle, 0, page]),
            world.refusal(VCPU_RUN, [handle, 0]),
            world.refusal(VM_IRQ, [handle, 40, 1]),
            world.refusal(VCPU_KICK, [handle, 0]),
            world.refusal(VM_DESTROY, [handle]),
            world.refusal(VM_RECLAIM, [handle]),
            world.refusal(VM_INFO, [handle, page]),
        ];
        assert_eq!(refused, [NO_SUCH; 11], "handle {handle:#x}");
    }
    world.check();
}

#[test]
fn vm_donate_meta_pays_for_tables_and_vcpus() {
    let world = World::new();
    let guest = Guest::with_meta(&world, VmConfig { vcpu_count: 2, ..World::config(dialect::PKVM, 1) }, 4);
    let [_, given, free, ..] = guest.info();
    assert_eq!((given, free), (4, 0), "two for the root, one for each vCPU");
    let page = world.page();
    assert_eq!(world.refusal(VM_LOAD, [guest.handle, page, guest.ipa(0)]), NO_META);
    assert_eq!(world.refusal(VM_DONATE, [guest.handle, page, guest.ipa(0), 1]), NO_META);
    assert_eq!(world.refusal(VM_DONATE, [guest.handle, world.block(), guest.ipa(0), 512]), NO_META);
    assert_eq!(world.call(VM_DONATE_META, [guest.handle, world.pages(3), 3]), (OK, [3, 0, 0]), "several at once");
    world.ok(VM_LOAD, [guest.handle, page, guest.ipa(0)]);
    let meta = world.page();
    for (pa, count) in [(meta + 8, 1), (meta, 0), (meta, MOST + 1)] {
        assert_eq!(world.refusal(VM_DONATE_META, [guest.handle, pa, count]), INVALID);
    }
    for pa in NOT_RAM {
        assert_eq!(world.refusal(VM_DONATE_META, [guest.handle, pa, 1]), ADDRESS);
    }
    for pa in [POSTERN, page] {
        assert_eq!(world.refusal(VM_DONATE_META, [guest.handle, pa, 1]), OWNER);
    }
    assert_eq!(world.refusal(VM_DONATE_META, [guest.handle, guest.run_pages[0], 1]), BUSY);
    world.ok(VM_DESTROY, [guest.handle]);
    assert_eq!(world.refusal(VM_DONATE_META, [guest.handle, meta, 1]), STATE);
    world.ok(VM_RECLAIM, [guest.handle]);
    world.check_empty();
}

#[test]
fn c1_vm_donate_gives_what_the_host_owns_once_and_wiped() {
    let world = World::new();
    let (guest, page, block) = Guest::scene(&world);
    assert_eq!(world.frame(page), (frame::PRIVATE, 0));
    assert_eq!(guest.reads(guest.ipa(1)), Some(0), "museum 4: it arrives zeroed");
    assert_eq!(guest.reads(guest.ipa(1023) + 8), Some(0));
    assert_eq!(world.host_reads(page), None, "A1");
    assert!(!world.host_writes(block + 7 * FRAME_SIZE, 1), "A1");

    let (new, ipa) = (world.page(), guest.ipa(2));
    for (pa, ipa, count) in
        [(new + 1, ipa, 1), (new, ipa + 1, 1), (new, ipa, 0), (new, ipa, 9), (new, ipa, 511), (new, ipa, u64::MAX)]
    {
        assert_eq!(world.refusal(VM_DONATE, [guest.handle, pa, ipa, count]), INVALID);
    }
    // Up to the first frame that is not to be had.
    let few = world.pages(4);
    world.ok(VM_DONATE, [guest.handle, few + 2 * FRAME_SIZE, guest.ipa(20), 1]);
    assert_eq!(world.call(VM_DONATE, [guest.handle, few, guest.ipa(8), 4]), (OK, [2, 0, 0]));
    assert_eq!((guest.reads(guest.ipa(9)), world.host_reads(few + FRAME_SIZE)), (Some(0), None));
    assert_eq!(world.refusal(VM_DONATE, [guest.handle, few + 2 * FRAME_SIZE, guest.ipa(10), 2]), OWNER);
    let new_block = world.block();
    for (pa, ipa) in [(new_block + FRAME_SIZE, guest.ipa(1024)), (new_block, guest.ipa(1023))] {
        assert_eq!(world.refusal(VM_DONATE, [guest.handle, pa, ipa, 512]), INVALID);
    }
    for pa in NOT_RAM {
        assert_eq!(world.refusal(VM_DONATE, [guest.handle, pa, ipa, 1]), ADDRESS);
    }
    assert_eq!(world.refusal(VM_DONATE, [guest.handle, 0, guest.ipa(1024), 512]), ADDRESS);
    let end = guest.config.ram_base + guest.config.ram_size;
    for ipa in [0, guest.config.ram_base - FRAME_SIZE, end, 1 << 39 | ipa, u64::MAX - 4095] {
        assert_eq!(world.refusal(VM_DONATE, [guest.handle, new, ipa, 1]), ADDRESS);
    }
    for pa in [POSTERN, page, block, guest.first_page] {
        assert_eq!(world.refusal(VM_DONATE, [guest.handle, pa, ipa, 1]), OWNER, "A3");
    }
    for pa in [POSTERN, block] {
        assert_eq!(world.refusal(VM_DONATE, [guest.handle, pa, guest.ipa(1024), 512]), OWNER);
    }
    assert_eq!(world.refusal(VM_DONATE, [guest.handle, guest.run_pages[0], ipa, 1]), BUSY);
    assert_eq!(world.refusal(VM_DONATE, [guest.handle, new, guest.ipa(1), 1]), EXISTS);
    assert_eq!(world.refusal(VM_DONATE, [guest.handle, new, guest.ipa(700), 1]), EXISTS);
    assert_eq!(world.refusal(VM_DONATE, [guest.handle, new_block, guest.ipa(0), 512]), EXISTS);
    world.check();
    guest.end();
    world.check_empty();
}

#[test]
fn c5_a_block_is_wiped_in_bounded_steps_that_the_host_repeats() {
    let world = World::new();
    let (guest, _, _) = Guest::scene(&world);
    let block = world.block();
    (0..512).for_each(|n| world.content(block + n * FRAME_SIZE)[0].store(1, Relaxed));
    let arguments = [guest.handle, block, guest.ipa(1024), 512];
    let mut calls = 1;
    while world.call(VM_DONATE, arguments).0 == MORE {
        calls += 1;
        assert_eq!(world.frame(block), (frame::MOVING, 0));
        assert_eq!(world.host_reads(block), None, "on its way it is nobody's");
        assert_eq!(guest.reads(guest.ipa(1024)), None);
        world.check();
    }
    assert!(calls > 8, "the bound is far below a block");
    assert!((0..512).all(|n| guest.reads(guest.ipa(1024 + n)) == Some(0)), "museum 2");
    world.check();
}

#[test]
fn vm_load_measures_content_that_only_a_new_vm_takes() {
    let world = World::new();
    let guest = Guest::create(&world, World::config(dialect::PKVM, 1));
    let page = world.filled(0xC0DE);
    let arguments = [guest.handle, page, guest.ipa(0)];
    for chunk in 1..hypervisor::measure::CHUNKS {
        assert_eq!(world.call(VM_LOAD, arguments).0, MORE, "chunk {chunk}");
        assert_eq!(world.frame(page), (frame::MOVING, 0));
        assert_eq!(world.host_reads(page), None, "what is measured cannot change");
        assert_eq!(world.refusal(VM_SEAL, [guest.handle, guest.ipa(0), 0]), STATE, "half loaded");
    }
    assert_eq!(world.call(VM_LOAD, arguments), (OK, [0; 3]));
    assert_eq!(guest.reads(guest.ipa(0) + 8), Some(0xC0DE));
    let new = world.page();
    for (pa, ipa) in [(new + 1, guest.ipa(1)), (new, guest.ipa(1) + 8)] {
        assert_eq!(world.refusal(VM_LOAD, [guest.handle, pa, ipa]), INVALID);
    }
    for pa in NOT_RAM {
        assert_eq!(world.refusal(VM_LOAD, [guest.handle, pa, guest.ipa(1)]), ADDRESS);
    }
    assert_eq!(world.refusal(VM_LOAD, [guest.handle, new, 0x1000]), ADDRESS);
    assert_eq!(world.refusal(VM_LOAD, [guest.handle, POSTERN, guest.ipa(1)]), OWNER);
    assert_eq!(world.refusal(VM_LOAD, [guest.handle, page, guest.ipa(1)]), OWNER);
    assert_eq!(world.refusal(VM_LOAD, [guest.handle, new, guest.ipa(0)]), EXISTS);
    assert_eq!(world.refusal(VM_LOAD, [guest.handle, guest.run_pages[0], guest.ipa(1)]), BUSY);
    world.ok(VM_SEAL, [guest.handle, guest.ipa(0), 0]);
    assert_eq!(world.refusal(VM_LOAD, [guest.handle, new, guest.ipa(1)]), STATE, "invariant 6");
    world.check();
    guest.end();
    assert_eq!(world.refusal(VM_LOAD, arguments), NO_SUCH);
    world.check_empty();
}

#[test]
fn vm_seal_needs_an_entry_and_vcpu_0() {
    let world = World::new();
    let handle = world.create(&World::config(dialect::PKVM, 2), 8);
    let base = 0x4000_0000;
    for entry in [base + 2, u64::MAX] {
        assert_eq!(world.refusal(VM_SEAL, [handle, entry, 0]), INVALID);
    }
    for entry in [base - 4, base + 0x0200_0000, 1 << 39 | base] {
        assert_eq!(world.refusal(VM_SEAL, [handle, entry, 0]), ADDRESS);
    }
    assert_eq!(world.refusal(VM_SEAL, [handle, base, 0]), NO_SUCH, "no vCPU 0");
    world.ok(VCPU_CREATE, [handle, 1, world.page()]);
    assert_eq!(world.refusal(VM_SEAL, [handle, base, 0]), NO_SUCH, "no vCPU 0");
    world.ok(VCPU_CREATE, [handle, 0, world.page()]);
    assert_eq!(world.refusal(VCPU_RUN, [handle, 0]), STATE);
    assert_eq!(world.refusal(VM_IRQ, [handle, 40, 1]), STATE);
    world.ok(VM_SEAL, [handle, base + 8, 77]);
    assert_eq!(world.refusal(VM_SEAL, [handle, base, 0]), STATE);
    let entry = world.postern.vms.with(handle, |vm| {
        let registers = vm.vcpu(0)?.own.lock();
        Ok((registers.0.pc(), registers.0.x(0)))
    });
    assert_eq!(entry, Ok((base + 8, 77)));
}

#[test]
fn vcpu_create_takes_metadata_and_holds_its_run_page() {
    let world = World::new();
    let config = world.config_page(&World::config(dialect::REALM, 3));
    let handle = world.ok(VM_CREATE, [config, world.pages(4), 4]);
    let run_page = world.page();
    world.ok(VCPU_CREATE, [handle, 0, run_page]);
    assert_eq!(world.frame(run_page), (frame::HOST, 0));
    assert_eq!(world.host_reads(run_page), Some(0));
    assert_eq!(world.refusal(VCPU_CREATE, [handle, 1, run_page]), BUSY, "each has its own");
    assert_eq!(world.refusal(VCPU_CREATE, [handle, 0, world.page()]), EXISTS);
    for index in [3, 8, u64::MAX] {
        assert_eq!(world.refusal(VCPU_CREATE, [handle, index, world.page()]), NO_SUCH);
    }
    assert_eq!(world.refusal(VCPU_CREATE, [handle, 1, run_page + 8]), INVALID);
    assert_eq!(world.refusal(VCPU_CREATE, [handle, 1, POSTERN]), OWNER);
    for pa in NOT_RAM {
        assert_eq!(world.refusal(VCPU_CREATE, [handle, 1, pa]), ADDRESS);
    }
    world.ok(VCPU_CREATE, [handle, 1, world.page()]);
    let last = world.page();
    assert_eq!(world.refusal(VCPU_CREATE, [handle, 2, last]), NO_META);
    let other = world.create(&World::config(dialect::REALM, 3), 8);
    world.ok(VCPU_CREATE, [other, 0, last]);
    world.ok(VM_DESTROY, [other]);
    world.ok(VM_RECLAIM, [other]);
    assert_eq!(world.frame(last), (frame::HOST, 0), "a refusal leaves no loan behind");
    world.ok(VM_SEAL, [handle, 0x4000_0000, 0]);
    assert_eq!(world.refusal(VCPU_CREATE, [handle, 2, last]), STATE);
    world.check();
    world.ok(VM_DESTROY, [handle]);
    world.ok(VM_RECLAIM, [handle]);
    assert_eq!(world.frame(run_page), (frame::HOST, 0));
    world.check_empty();
}

#[test]
fn vcpu_run_refuses_what_cannot_run() {
    let world = World::new();
    let guest = Guest::sealed(&world, dialect::PKVM, 2);
    for index in [2, 8, u64::MAX] {
        assert_eq!(world.refusal(VCPU_RUN, [guest.handle, index]), NO_SUCH);
        assert_eq!(world.refusal(VCPU_KICK, [guest.handle, index]), NO_SUCH);
    }
    assert_eq!(world.refusal(VCPU_RUN, [guest.handle, 1]), STATE, "off");
    world
        .postern
        .vms
        .with(guest.handle, |vm| {
            let _running = vm.vcpu(0)?.own.lock();
            assert_eq!(world.refusal(VCPU_RUN, [guest.handle, 0]), BUSY);
            assert_eq!(world.call(VCPU_KICK, [guest.handle, 0]), (OK, [1, 0, 0]));
            assert_eq!(world.refusal(VM_RECLAIM, [guest.handle]), BUSY);
            Ok(())
        })
        .expect("the VM exists");
    assert_eq!(guest.run(0), abi::run::exit::INTERRUPT, "kicked");
    assert_eq!(guest.run(0), abi::run::exit::WAIT, "only once");
    assert_eq!(world.call(VCPU_KICK, [guest.handle, 0]), (OK, [0; 3]));
    world.ok(VM_DESTROY, [guest.handle]);
    assert_eq!(world.refusal(VCPU_RUN, [guest.handle, 0]), STATE);
}

#[test]
fn vm_irq_sets_device_lines_only() {
    let world = World::new();
    let guest = Guest::sealed(&world, dialect::PKVM, 1);
    for intid in 32..96 {
        assert_eq!(world.call(VM_IRQ, [guest.handle, intid, 1]), (OK, [0; 3]));
        assert_eq!(world.call(VM_IRQ, [guest.handle, intid, 0]), (OK, [0; 3]));
    }
    for intid in [0, 15, 16, 27, 31, 96, 1019, 1020, 8192, 1 << 32 | 40, u64::MAX] {
        assert_eq!(world.refusal(VM_IRQ, [guest.handle, intid, 1]), INVALID, "museum 7: {intid}");
    }
    assert_eq!(world.refusal(VM_IRQ, [guest.handle, 40, 2]), INVALID);
}

#[test]
fn vm_destroy_and_reclaim_go_in_this_order() {
    let world = World::new();
    let guest = Guest::sealed(&world, dialect::REALM, 1);
    assert_eq!(world.refusal(VM_RECLAIM, [guest.handle]), STATE);
    world.ok(VM_DESTROY, [guest.handle]);
    assert_eq!(world.refusal(VM_DESTROY, [guest.handle]), STATE);
    assert_eq!(guest.info()[0], vm_state::DYING);
    let page = world.page();
    assert_eq!(world.refusal(VM_DONATE, [guest.handle, page, guest.ipa(3), 1]), STATE);
    assert_eq!(world.refusal(VM_LOAD, [guest.handle, page, guest.ipa(3)]), STATE);
    assert_eq!(world.refusal(VM_SEAL, [guest.handle, guest.ipa(0), 0]), STATE);
    world.ok(VM_RECLAIM, [guest.handle]);
    assert_eq!(world.refusal(VM_RECLAIM, [guest.handle]), NO_SUCH);
    world.check_empty();
}
