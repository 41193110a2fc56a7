//! The tdx dialect: exact register results of every leaf of TDCALL (TDX Module 1.5 ABI).

use abi::host::{self, VmConfig, counter, dialect};
use abi::run;
use abi::run::exit;
use abi::tdx::{self, field, leaf::*, register::*, report, status::*, td_ctls};
use arch::machine::{Exception, Instruction};
use arch::{Conduit, VeInfo};
use hypervisor::measure::Extensible;
use sha2::{Digest, Sha384};
use tests::td::{REGISTERS, rubbish};
use tests::{Guest, World};

fn td(test: impl Fn(&World, &Guest<'_>)) {
    let world = World::new();
    let guest = Guest::sealed(&world, dialect::TDX, 1);
    test(&world, &guest);
    world.check();
    guest.end();
    world.check_empty();
}

const fn invalid(register: usize) -> u64 {
    OPERAND_INVALID | register as u64
}

/// The registers that a call set, besides RAX; the others have to be as they were.
#[track_caller]
fn outputs(guest: &Guest<'_>, inputs: &[(usize, u64)], status: u64) -> Vec<(usize, u64)> {
    let after = guest.tdcall(inputs);
    assert_eq!(after[RAX], status, "{inputs:#x?}");
    let before = |n| inputs.iter().find(|(register, _)| *register == n).map_or(rubbish(n), |(_, value)| *value);
    (1..REGISTERS).filter(|n| after[*n] != before(*n)).map(|n| (n, after[n])).collect()
}

#[test]
fn museum_9_every_other_leaf_and_version_is_an_invalid_operand_and_changes_nothing() {
    td(|world, guest| {
        let known = [VP_VMCALL, VP_INFO, MR_RTMR_EXTEND, VP_VEINFO_GET, MR_REPORT, MEM_PAGE_ACCEPT, VM_RD, VM_WR];
        let refusals = world.counter(counter::GUEST_REFUSALS);
        let unknown = (0..64).chain([255, 0x100, 0x8000, 0xffff]).filter(|leaf| !known.contains(leaf));
        let mut calls = 0;
        for rax in unknown {
            assert_eq!(outputs(guest, &[(RAX, rax)], invalid(RAX)), [], "{rax:#x}");
            calls += 1;
        }
        for leaf in known {
            for bit in (17..64).chain(if leaf == VM_RD { None } else { Some(16) }) {
                let rax = leaf | 1 << bit;
                let out = outputs(guest, &[(RAX, rax)], invalid(RAX));
                // Its results are zero whatever happens.
                let zeroed = if leaf == VM_RD && bit < 24 { vec![(RDX, field::NONE), (R8, 0)] } else { vec![] };
                assert_eq!(out, zeroed, "{rax:#x}");
                calls += 1;
            }
        }
        assert_eq!(world.counter(counter::GUEST_REFUSALS), refusals + calls, "counted");
    });
}

#[test]
fn other_conduits_are_undefined_in_a_td_and_tdcall_is_in_the_others() {
    for (dialect, conduits) in [
        (dialect::TDX, &[Conduit::Hvc, Conduit::Smc][..]),
        (dialect::PKVM, &[Conduit::Tdcall]),
        (dialect::REALM, &[Conduit::Tdcall, Conduit::Hvc]),
    ] {
        let world = World::new();
        let guest = Guest::sealed(&world, dialect, 1);
        for conduit in conduits {
            guest.vcpu(0, |vcpu| vcpu.quick = false);
            let call = [Instruction::Set(vec![VP_INFO; 4]), Instruction::Call(*conduit)];
            assert_eq!(guest.does(0, call), exit::WAIT);
            assert_eq!(guest.x(0), [VP_INFO; 4], "no register changed");
            assert_eq!(guest.vcpu(0, |vcpu| vcpu.exceptions.pop()), Some(Exception::Undefined), "{conduit:?}");
        }
        guest.end();
        world.check_empty();
    }
}

#[test]
fn all_vcpus_start_as_a_td_does_when_the_vm_is_sealed() {
    let world = World::new();
    let mut guest = Guest::create(&world, World::config(dialect::TDX, 3));
    guest.first_page = world.filled(0x1457);
    guest.load(guest.first_page, guest.ipa(0));
    world.ok(host::VM_SEAL, [guest.handle, guest.ipa(0) + 8, 77]);
    for index in 0..3 {
        let (pc, gprs) = (guest.vcpu(index, |vcpu| vcpu.pc()), guest.gprs(index));
        assert_eq!((pc, gprs[RCX], gprs[R8], gprs[RSI], gprs[RBX]), (guest.ipa(0) + 8, 77, 77, index, 40));
        assert_eq!(guest.run(index), exit::WAIT);
        let info = Guest::td(&[(RAX, VP_INFO)]);
        assert_eq!(guest.does(index, info), exit::WAIT);
        let after = guest.gprs(index);
        assert_eq!((after[RAX], after[R8], after[R9]), (SUCCESS, 3 << 32 | 3, index));
    }
    guest.end();
    world.check_empty();
}

#[test]
fn a_td_is_sealed_only_with_all_its_vcpus_and_has_no_interrupt_controller() {
    let world = World::new();
    let good = World::config(dialect::TDX, 2);
    for bad in [
        VmConfig { gicd_base: 0x0800_0000, ..good },
        VmConfig { gicr_base: 0x080A_0000, ..good },
        VmConfig { ram_base: 1 << 39, ..good },
        VmConfig { ram_base: (1 << 39) - good.ram_size + abi::BLOCK_SIZE, ..good },
    ] {
        let create = [world.config_page(&bad), world.pages(4), 4];
        assert_eq!(world.refusal(host::VM_CREATE, create), host::INVALID, "{bad:?}");
    }
    let handle = world.create(&good, 16);
    let page = world.page();
    world.ok(host::VCPU_CREATE, [handle, 0, page]);
    assert_eq!(world.refusal(host::VM_SEAL, [handle, good.ram_base, 0]), host::NO_SUCH);
    world.ok(host::VCPU_CREATE, [handle, 1, world.page()]);
    world.ok(host::VM_SEAL, [handle, good.ram_base, 0]);
    for (intid, answer) in [(32, Ok(0)), (255, Ok(0)), (1 << 8 | 99, Ok(1)), (31, Err(())), (2 << 8 | 99, Err(()))] {
        let answered = world.call(host::VM_IRQ, [handle, intid, 1]);
        assert_eq!(if answered.0 == host::OK { Ok(answered.1[0]) } else { Err(()) }, answer, "{intid:#x}");
    }
    world.ok(host::VM_DESTROY, [handle]);
    world.ok(host::VM_RECLAIM, [handle]);
    world.check_empty();
}

#[test]
fn version_offers_all_dialects_of_the_machine() {
    let world = World::new();
    let (status, [_, features, _]) = world.call(host::VERSION, [0; 6]);
    assert_eq!((status, features), (host::OK, 1 << dialect::PKVM | 1 << dialect::REALM | 1 << dialect::TDX));
}

#[test]
fn vp_info_is_what_linux_needs() {
    td(|_, guest| {
        let info = [(RCX, 40), (RDX, 1 << 28), (R8, 1 << 32 | 1), (R9, 0), (R10, 0), (R11, 0)];
        assert_eq!(outputs(guest, &[(RAX, VP_INFO)], SUCCESS), info);
        assert_eq!(guest.alias(), 1 << 39, "GPAW - 1");
    });
}

#[test]
fn veinfo_is_taken_once() {
    td(|_, guest| {
        let none = [(RCX, 0), (RDX, 0), (R8, 0), (R9, 0), (R10, 0)];
        assert_eq!(outputs(guest, &[(RAX, VP_VEINFO_GET)], NO_VALID_VE_INFO), none);
        let address = guest.ipa(7) | guest.alias() | 0xABC;
        guest.donate(guest.ipa(7));
        assert_eq!(guest.does(0, [Instruction::Access(Guest::touch(address))]), exit::WAIT);
        let info = [(RCX, 48), (RDX, 1), (R8, 0), (R9, address), (R10, 0)];
        assert_eq!(outputs(guest, &[(RAX, VP_VEINFO_GET)], SUCCESS), info);
        assert_eq!(outputs(guest, &[(RAX, VP_VEINFO_GET)], NO_VALID_VE_INFO), none);
        let ve = VeInfo { reason: 30, qualification: 1 << 40, gla: 2 << 40, gpa: 3 << 40, length: 4, info: 5 };
        guest.vcpu(0, |vcpu| vcpu.set_ve(ve));
        let info = [(RCX, 30), (RDX, 1 << 40), (R8, 2 << 40), (R9, 3 << 40), (R10, 5 << 32 | 4)];
        assert_eq!(outputs(guest, &[(RAX, VP_VEINFO_GET)], SUCCESS), info);
    });
}

fn read(guest: &Guest<'_>, id: u64) -> u64 {
    let out = outputs(guest, &[(RAX, VM_RD), (RCX, 0), (RDX, id)], SUCCESS);
    assert_eq!((out.len(), out[0].0), (1, R8));
    out[0].1
}

#[test]
fn vm_rd_knows_the_fields_of_the_table_and_zeroes_r8_for_all_others() {
    td(|_, guest| {
        let launch = guest.measurement();
        for (id, value) in [
            (field::ATTRIBUTES, 1 << 28),
            (field::XFAM, 7),
            (field::MAX_VCPUS, 1),
            (field::NUM_VCPUS, 1),
            (field::GPAW, 0),
            (field::CONFIG_FLAGS, 0),
            (field::TD_CTLS, 0),
            (field::NOTIFY_ENABLES, 0),
            // As Linux writes it: hints of the identifier do not count.
            (0x9100_0000_0000_0010, 0),
            (field::TOPOLOGY_ENUM_CONFIGURED, 1),
            (field::MRTD, launch[0]),
            (field::MRTD + 5, launch[5]),
            (field::MRCONFIGID + 5, 0),
            (field::MROWNER, 0),
            (field::MROWNERCONFIG, 0),
            (field::RTMR, 0),
            (field::RTMR + 23, 0),
            (field::SERVTD_HASH, 0),
            (field::SERVTD_NUM, 0),
            (field::NUM_L2_VMS, 0),
        ] {
            assert_eq!(read(guest, id), value, "{id:#x}");
        }
        for id in [
            field::MRTD + 6,
            field::RTMR + 24,
            field::RTMR - 1,
            field::GPAW + 1,
            0,
            1 << 23,
            0x8010_0003_0000_0020,
            0x3F00_0000_0000_0000,
            field::NONE,
        ] {
            let out = outputs(guest, &[(RAX, VM_RD), (RCX, 0), (RDX, id)], METADATA_FIELD_ID_INCORRECT);
            assert_eq!(out, [(R8, 0)], "{id:#x}");
        }
        for vm in [1, u64::MAX] {
            let inputs = [(RAX, VM_RD), (RCX, vm), (RDX, field::ATTRIBUTES)];
            assert_eq!(outputs(guest, &inputs, invalid(RCX)), [(R8, 0)]);
        }
    });
}

#[test]
fn vm_rd_version_1_leads_through_all_fields() {
    td(|_, guest| {
        let rax = VM_RD | 1 << tdx::VERSION_SHIFT;
        let first = outputs(guest, &[(RAX, rax), (RCX, 0), (RDX, field::NONE)], METADATA_FIRST_FIELD_ID_IN_CONTEXT);
        assert_eq!(first, [(RDX, field::NUM_VCPUS), (R8, 0)]);
        let (mut id, mut seen) = (first[0].1, vec![]);
        while id != field::NONE {
            let after = guest.tdcall(&[(RAX, rax), (RCX, 0), (RDX, id)]);
            assert_eq!((after[RAX], after[R8]), (SUCCESS, read(guest, id)));
            let key = |id: u64| (id & field::CLASS, id & field::CODE);
            assert!(seen.last().is_none_or(|last| key(*last) < key(id)), "in order");
            seen.push(id);
            id = after[RDX];
        }
        assert_eq!(seen.len(), 11 + 5 * 6 + 24);
        for (inputs, status) in [([0, 0], METADATA_FIELD_ID_INCORRECT), ([1, field::XFAM], invalid(RCX))] {
            let inputs = [(RAX, rax), (RCX, inputs[0]), (RDX, inputs[1])];
            assert_eq!(outputs(guest, &inputs, status), [(RDX, field::NONE), (R8, 0)]);
        }
    });
}

#[test]
fn vm_wr_as_linux_does_it() {
    td(|_, guest| {
        let write = |id, value, mask| {
            let inputs = [(RAX, VM_WR), (RCX, 0), (RDX, id), (R8, value), (R9, mask)];
            let after = guest.tdcall(&inputs);
            assert_eq!((after[RCX], after[RDX], after[R9]), (0, id, mask));
            (after[RAX], after[R8])
        };
        assert_eq!(write(0x9100_0000_0000_0010, 0, u64::MAX), (SUCCESS, 0), "no notifications");
        assert_eq!(write(field::NOTIFY_ENABLES, 1, u64::MAX), (METADATA_FIELD_VALUE_NOT_VALID, 0), "there are none");
        let (reduce, all) = (td_ctls::REDUCE_VE, 0b1110);
        assert_eq!(write(field::TD_CTLS, reduce, reduce), (SUCCESS, 0));
        assert_eq!(read(guest, field::TD_CTLS), all, "which implies two others");
        assert_eq!(write(field::TD_CTLS, td_ctls::ENUM_TOPOLOGY, td_ctls::ENUM_TOPOLOGY), (SUCCESS, all));
        assert_eq!(write(field::TD_CTLS, 0, 0b1110), (SUCCESS, all), "the mask says what changes");
        assert_eq!(read(guest, field::TD_CTLS), 0);
        for (value, mask, status) in [
            (1, 1, METADATA_FIELD_NOT_WRITABLE),
            (0, 0, METADATA_FIELD_NOT_WRITABLE),
            (u64::MAX, 1 << 40, METADATA_FIELD_NOT_WRITABLE),
            (1 | reduce, 1 | reduce, METADATA_FIELD_VALUE_NOT_VALID),
            (1 << 40 | reduce, u64::MAX, METADATA_FIELD_VALUE_NOT_VALID),
        ] {
            assert_eq!(write(field::TD_CTLS, value, mask), (status, 0), "{value:#x} {mask:#x}");
        }
        assert_eq!(write(field::TD_CTLS, td_ctls::LOCK | 4, u64::MAX), (SUCCESS, 0));
        let locked = td_ctls::LOCK | 4;
        assert_eq!(write(field::TD_CTLS, 0, td_ctls::LOCK), (METADATA_FIELD_VALUE_NOT_VALID, 0));
        assert_eq!(write(field::TD_CTLS, 2, 2), (METADATA_FIELD_VALUE_NOT_VALID, 0));
        assert_eq!(write(field::TD_CTLS, 4, 4), (SUCCESS, locked), "no change");
        assert_eq!(read(guest, field::TD_CTLS), locked);
        for id in [field::ATTRIBUTES, field::XFAM, field::CONFIG_FLAGS, field::MRTD, field::RTMR] {
            assert_eq!(write(id, 0, u64::MAX), (METADATA_FIELD_NOT_WRITABLE, 0), "{id:#x}");
        }
        for id in [0, field::NONE, field::RTMR + 24] {
            assert_eq!(write(id, 0, u64::MAX), (METADATA_FIELD_ID_INCORRECT, 0), "{id:#x}");
        }
        let other = [(RAX, VM_WR), (RCX, 1), (RDX, field::TD_CTLS), (R8, 0), (R9, 2)];
        assert_eq!(outputs(guest, &other, invalid(RCX)), []);
    });
}

/// Fills bytes of a private page of the guest's.
fn put(guest: &Guest<'_>, address: u64, bytes: &[u8]) {
    for (n, word) in bytes.chunks_exact(8).enumerate() {
        assert!(guest.writes(address + 8 * n as u64, u64::from_le_bytes(word.try_into().unwrap())));
    }
}

fn get(guest: &Guest<'_>, address: u64, size: u64) -> Vec<u8> {
    (0..size / 8).flat_map(|n| guest.reads(address + 8 * n).expect("readable").to_le_bytes()).collect()
}

#[test]
fn rtmrs_are_extended_with_48_private_bytes() {
    td(|_, guest| {
        let at = guest.ipa(1) + 0xFC0;
        let data: Vec<u8> = (1..=64).collect();
        guest.donate(guest.ipa(1));
        put(guest, at, &data);
        assert_eq!(outputs(guest, &[(RAX, MR_RTMR_EXTEND), (RCX, at), (RDX, 2)], SUCCESS), []);
        let digest = Sha384::new().chain_update([0; 48]).chain_update(&data[..48]).finalize();
        for n in 0..24 {
            let expected = match n {
                12..18 => u64::from_le_bytes(digest[(n - 12) * 8..][..8].try_into().unwrap()),
                _ => 0,
            };
            assert_eq!(read(guest, field::RTMR + n as u64), expected, "word {n}");
        }
        for bad in [at + 8, at + 32, 0, guest.config.ram_base + guest.config.ram_size, at | 1 << 40, at | 1 << 63] {
            assert_eq!(outputs(guest, &[(RAX, MR_RTMR_EXTEND), (RCX, bad), (RDX, 0)], invalid(RCX)), [], "{bad:#x}");
        }
        for index in [4, 5, 1 << 32, u64::MAX] {
            assert_eq!(outputs(guest, &[(RAX, MR_RTMR_EXTEND), (RCX, at), (RDX, index)], invalid(RDX)), []);
        }
        let absent = Guest::td(&[(RAX, MR_RTMR_EXTEND), (RCX, guest.ipa(3) + 64), (RDX, 0)]);
        assert_eq!(guest.does(0, absent), exit::MEMORY_FAULT);
        assert_eq!(guest.fault(0), (guest.ipa(3), 0));
        guest.donate(guest.ipa(3));
        assert_eq!(guest.run(0), exit::WAIT);
        assert_eq!(guest.gprs(0)[RAX], SUCCESS);
        guest.share(guest.ipa(3), true);
        for shared in [guest.ipa(3), guest.ipa(3) | guest.alias()] {
            let inputs = [(RAX, MR_RTMR_EXTEND), (RCX, shared), (RDX, 0)];
            assert_eq!(outputs(guest, &inputs, invalid(RCX)), [], "what the host can change is not measured");
        }
    });
}

#[test]
fn a_report_has_the_measurements_and_their_hashes() {
    td(|world, guest| {
        let (page, to, data_at) = (guest.donate(guest.ipa(1)), guest.ipa(1) + 0xC00, guest.ipa(1) + 0x40);
        guest.donate(guest.ipa(2));
        let data: Vec<u8> = (100..164).collect();
        put(guest, data_at, &data);
        put(guest, guest.ipa(2), &[7; 48]);
        guest.tdcall(&[(RAX, MR_RTMR_EXTEND), (RCX, guest.ipa(2)), (RDX, 3)]);
        let call = |to, data, subtype| [(RAX, MR_REPORT), (RCX, to), (RDX, data), (R8, subtype)];
        assert_eq!(outputs(guest, &call(to, data_at, 0), SUCCESS), []);
        let bytes = get(guest, to, 1024);
        let part = |at: usize, size: usize| &bytes[at..at + size];
        assert_eq!(part(0, 4), [report::TYPE, 0, 0, 0]);
        assert_eq!(part(report::DATA, 64), data);
        assert_eq!(part(report::MAC, 32), [0; 32], "nobody could check one");
        assert_eq!(part(report::TCB_INFO, report::TCB_INFO_SIZE), [0; report::TCB_INFO_SIZE]);
        assert_eq!(part(report::ATTRIBUTES, 16), [1_u64 << 28, 7].map(u64::to_le_bytes).concat());
        assert_eq!(part(report::MRTD, 48), guest.measurement().map(u64::to_le_bytes).concat());
        let rtmr: [u64; 6] = core::array::from_fn(|n| read(guest, field::RTMR + 18 + n as u64));
        assert_eq!(part(report::RTMR + 3 * 48, 48), rtmr.map(u64::to_le_bytes).concat());
        assert!(rtmr[0] != 0 && part(report::RTMR, 3 * 48).iter().all(|byte| *byte == 0));
        assert_eq!(part(report::TD_INFO_HASH, 48), Sha384::digest(part(512, 512)).as_slice());
        assert_eq!(part(report::TCB_INFO_HASH, 48), Sha384::digest(part(256, 239)).as_slice());
        assert_eq!(get(guest, to - 64, 64), [0; 64], "nothing beside it");

        // What is extended afterwards is in the next report, and in its hash.
        guest.tdcall(&[(RAX, MR_RTMR_EXTEND), (RCX, guest.ipa(2)), (RDX, 0)]);
        guest.tdcall(&call(to, data_at, 0));
        let later = get(guest, to, 1024);
        assert_ne!(later[report::RTMR..][..48], [0; 48]);
        assert_eq!(&later[report::TD_INFO_HASH..][..48], Sha384::digest(&later[512..1024]).as_slice());

        // Shared memory will do.
        guest.share(guest.ipa(2), true);
        let alias = guest.alias();
        assert_eq!(outputs(guest, &call(guest.ipa(2) | alias, guest.ipa(2) | alias, 0), SUCCESS), []);
        assert_eq!(guest.reads(guest.ipa(2) | alias).map(|word| word as u8), Some(report::TYPE));

        for bad in [to + 512, to + 8, 0, to | 1 << 40, u64::MAX - 1023, to | alias, guest.ipa(2)] {
            assert_eq!(outputs(guest, &call(bad, data_at, 0), invalid(RCX)), [], "{bad:#x}");
        }
        for bad in [data_at + 32, data_at + 1, 0, data_at | 1 << 40, u64::MAX - 63, data_at | alias, guest.ipa(2)] {
            assert_eq!(outputs(guest, &call(to, bad, 0), invalid(RDX)), [], "{bad:#x}");
        }
        for subtype in [1, 2, 1 << 32, u64::MAX] {
            assert_eq!(outputs(guest, &call(to, data_at, subtype), invalid(R8)), []);
        }
        // What the host has not given yet it is asked for, whichever it is.
        for (at, call) in [(3, call(guest.ipa(3), data_at, 0)), (4, call(to, guest.ipa(4), 0))] {
            assert_eq!(guest.does(0, Guest::td(&call)), exit::MEMORY_FAULT);
            assert_eq!((guest.word(0, run::ADDRESS), guest.word(0, run::SHARED)), (guest.ipa(at), 0));
            guest.donate(guest.ipa(at));
            assert_eq!(guest.run(0), exit::WAIT);
            assert_eq!(guest.gprs(0)[RAX], SUCCESS);
        }
        assert_eq!(world.host_reads(page), None);
    });
}

#[test]
fn c5_a_reports_hash_is_made_in_steps_and_begins_anew_when_a_register_changes() {
    let mut registers = Extensible::default();
    let bytes: Vec<u8> = (0..512_u32).map(|n| n as u8).collect();
    for _ in 0..2 {
        let calls = (1..10).find(|_| registers.hash_on(&bytes).is_some());
        assert_eq!(calls, Some(3), "256 bytes at a time");
        assert_eq!(registers.hash_on(&bytes).map(|hash| hash.to_vec()), Some(Sha384::digest(&bytes).to_vec()));
        assert!(registers.extend(1, &[1; 48]));
    }
    registers.hash_on(&bytes);
    assert!(registers.extend(1, &[1; 48]));
    let other = [7; 512];
    let hash = (0..9).find_map(|_| registers.hash_on(&other));
    assert_eq!(hash.map(|hash| hash.to_vec()), Some(Sha384::digest(other).to_vec()));
}
