//! Boot: what is handed over is checked before it is believed, and what is set up is what the audit expects.

use abi::host::frame;
use arch::BootInfo;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use guestmem::{Pfn, Space};
use hypervisor::boot;
use loader::{BootError, bundle, cpio, fdt, host_tree, image, layout};
use tests::{Noise, RAM, World};

fn cells(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

fn node(name: &str, properties: &[(&str, &[u8])]) -> DeviceTreeNode {
    let mut node = DeviceTreeNode::new(name).expect("a name");
    for (name, value) in properties {
        node.add_property(DeviceTreeProperty::new(*name, *value).expect("a property"));
    }
    node
}

/// A tree like the emulator's, with these memory ranges.
fn tree(memory: &[(u64, u64)]) -> DeviceTree {
    let mut tree = DeviceTree::new();
    let two = 2_u32.to_be_bytes();
    tree.root.add_property(DeviceTreeProperty::new("#address-cells", two).expect("cells"));
    tree.root.add_property(DeviceTreeProperty::new("#size-cells", two).expect("cells"));
    for (start, size) in memory {
        tree.root.add_child(node(&format!("memory@{start:x}"), &[("reg", &cells(&[*start, *size]))]));
    }
    let mut cpus = node("cpus", &[("#address-cells", &1_u32.to_be_bytes()), ("#size-cells", &[0; 4])]);
    for cpu in 0..2_u32 {
        cpus.add_child(node(&format!("cpu@{cpu}"), &[("reg", &cpu.to_be_bytes())]));
    }
    tree.root.add_child(cpus);
    tree.root.add_child(node("psci", &[("method", b"smc\0")]));
    let gic = cells(&[0x0800_0000, 0x1_0000, 0x080A_0000, 0xF6_0000]);
    let mut gic = node("intc@8000000", &[("compatible", b"arm,gic-v3\0"), ("reg", &gic)]);
    gic.add_property(DeviceTreeProperty::new("#address-cells", two).expect("cells"));
    gic.add_property(DeviceTreeProperty::new("#size-cells", two).expect("cells"));
    let its = cells(&[0x0808_0000, 0x2_0000]);
    gic.add_child(node("its@8080000", &[("compatible", b"arm,gic-v3-its\0"), ("reg", &its)]));
    tree.root.add_child(gic);
    let uart = cells(&[0x0900_0000, 0x1000]);
    tree.root.add_child(node("pl011@9000000", &[("compatible", b"arm,pl011\0arm,primecell\0"), ("reg", &uart)]));
    let chosen = [("linux,initrd-start", &cells(&[0x4400_0000])[..]), ("linux,initrd-end", &cells(&[0x4500_0000])[..])];
    tree.root.add_child(node("chosen", &chosen));
    tree
}

const GOOD: [(u64, u64); 2] = [(0x4000_0000, 0x1000_0000), (0x8000_0000, 0x1000_0000)];

#[test]
fn a_good_tree_is_understood() {
    let machine = fdt::parse(&tree(&GOOD).to_dtb()).expect("a good tree");
    assert_eq!(machine.memory.as_slice(), [0x4000_0000..0x5000_0000, 0x8000_0000..0x9000_0000]);
    assert_eq!(machine.cpus.as_slice(), [0, 1]);
    assert_eq!(machine.its.as_slice(), std::slice::from_ref(&(0x0808_0000..0x080A_0000)));
    assert_eq!(machine.initrd, Some(0x4400_0000..0x4500_0000));
    assert_eq!(machine.distributor, 0x0800_0000..0x0801_0000);
}

#[test]
fn trees_that_lack_something_are_refused_with_the_reason() {
    let without = |name: &str| {
        let mut tree = tree(&GOOD);
        assert!(tree.root.remove_child(name).is_some(), "{name}");
        fdt::parse(&tree.to_dtb())
    };
    assert_eq!(without("cpus").err(), Some(BootError::Node("CPUs")));
    assert_eq!(without("psci").err(), Some(BootError::Node("PSCI node")));
    assert_eq!(without("intc@8000000").err(), Some(BootError::Node("GICv3")));
    assert_eq!(fdt::parse(&tree(&[]).to_dtb()).err(), Some(BootError::Node("memory")));
    assert_eq!(fdt::parse(&[]).err(), Some(BootError::DeviceTree));
    let overlapping = tree(&[(0x4000_0000, 0x1000_0000), (0x4800_0000, 0x1000_0000)]);
    assert!(matches!(fdt::parse(&overlapping.to_dtb()), Err(BootError::Overlap(_))));
    let mut hvc = tree(&GOOD);
    hvc.root.remove_child("psci");
    hvc.root.add_child(node("psci", &[("method", b"hvc\0")]));
    assert!(matches!(fdt::parse(&hvc.to_dtb()), Err(BootError::Node(_))));
}

#[test]
fn museum_10_memory_maps_with_holes_odd_ends_and_too_many_parts_are_refused_or_fit() {
    // Not whole frames, at the very end of the address space, past it, nothing at all.
    for memory in [(0x4000_0800, 0x1000), (u64::MAX - 0x7FF, 0x400), (u64::MAX - 0x1800, 0x1000), (0, u64::MAX), (5, 0)]
    {
        if let Ok(machine) = fdt::parse(&tree(&[GOOD[1], memory]).to_dtb()) {
            let regions = boot::regions(&machine);
            assert!(regions.iter().all(|region| region.start < region.end), "{memory:x?}");
            let _ = layout::place(&machine, &[], 1 << 20, 2 << 20, "it");
        }
    }
    let many: Vec<(u64, u64)> = (0..40).map(|n| (0x4000_0000 + n * 0x20_0000, 0x10_0000)).collect();
    assert_eq!(fdt::parse(&tree(&many).to_dtb()).err(), Some(BootError::TooMany("memory ranges")));
}

#[test]
fn damaged_trees_are_refused_or_read_but_never_a_panic() {
    let good = tree(&GOOD).to_dtb();
    let mut noise = Noise::seed(7);
    let read = |bytes: &[u8]| {
        if let Ok(machine) = fdt::parse(bytes) {
            let _ = host_tree::host_tree(bytes, &machine, &RAM, None, "quiet");
            let _ = boot::regions(&machine);
        }
    };
    for length in 0..good.len() {
        read(&good[..length]);
    }
    for _ in 0..3000 {
        let mut bad = good.clone();
        for _ in 0..=noise.below(3) {
            let at = noise.below(bad.len() as u64) as usize;
            bad[at] = noise.pick(&[0, 1, 0x7f, 0x80, 0xff, noise.clone().any() as u8]);
        }
        read(&bad);
    }
}

/// The good tree with `depth` nodes inside each other at its end, token by token: the writer itself would recurse.
fn nested(depth: u32) -> Vec<u8> {
    let good = tree(&GOOD).to_dtb();
    let field = |at: usize| u32::from_be_bytes(good[at..at + 4].try_into().expect("four bytes")) as usize;
    // Devicetree Specification 5.2: structure block and its size, strings block and its size.
    let (structure, strings, strings_size, structure_size) = (field(8), field(12), field(32), field(36));
    let mut tokens = good[structure..structure + structure_size].to_vec();
    // In front of the root's END_NODE and the END.
    tokens.truncate(tokens.len() - 8);
    (0..depth).for_each(|_| tokens.extend([0, 0, 0, 1, b'd', 0, 0, 0]));
    (0..=depth).for_each(|_| tokens.extend([0, 0, 0, 2]));
    tokens.extend([0, 0, 0, 9]);
    let mut out = good[..structure].to_vec();
    out.extend(&tokens);
    let strings_at = out.len();
    out.extend(&good[strings..strings + strings_size]);
    let total = out.len();
    for (at, value) in [(4, total), (12, strings_at), (36, tokens.len())] {
        out[at..at + 4].copy_from_slice(&(value as u32).to_be_bytes());
    }
    out
}

#[test]
fn a_tree_that_nests_without_end_is_refused() {
    let deepest = nested(17);
    let machine = fdt::parse(&deepest).expect("deeper than any board");
    assert!(host_tree::host_tree(&deepest, &machine, &[], None, "").is_ok());
    // It would take a stack without end, or hide a device from Postern but not from the host.
    for depth in [18, 100, 20_000] {
        assert_eq!(
            fdt::parse(&nested(depth)).err(),
            Some(BootError::TooMany("levels of device tree nodes")),
            "{depth}"
        );
    }
}

#[test]
fn the_hosts_tree_has_no_postern_and_no_translation_service() {
    let blob = tree(&GOOD).to_dtb();
    let machine = fdt::parse(&blob).expect("good");
    let postern = [0x4000_0000..0x4020_0000, 0x4300_0000..0x4310_0000];
    let host =
        host_tree::host_tree(&blob, &machine, &postern, Some(&(0x4500_0000..0x4500_1000)), "quiet").expect("good");
    let seen = fdt::parse(&host).expect("a good tree again");
    assert!(seen.memory.iter().all(|range| postern.iter().all(|own| !loader::overlap(range, own))), "museum 6");
    assert_eq!(seen.memory.iter().map(|range| range.end - range.start).sum::<u64>(), 0x2000_0000 - 0x30_0000);
    assert_eq!((seen.its.len(), seen.initrd), (0, Some(0x4500_0000..0x4500_1000)));
}

fn cpio_entry(name: &str, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::from(&b"070701"[..]);
    for number in 0..13 {
        let value = if number == 6 {
            data.len()
        } else if number == 11 {
            name.len() + 1
        } else {
            0
        };
        out.extend(format!("{value:08x}").bytes());
    }
    out.extend(name.bytes().chain([0]));
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(data);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn kernel(size: u64, text_offset: u64) -> Vec<u8> {
    let mut bytes = vec![0; 128];
    bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
    bytes[16..24].copy_from_slice(&size.to_le_bytes());
    bytes[56..60].copy_from_slice(b"ARM\x64");
    bytes
}

fn archive(kernel: &[u8]) -> Vec<u8> {
    [cpio_entry("host/kernel", kernel), cpio_entry("host/cmdline", b"quiet\n"), cpio_entry("TRAILER!!!", b"")].concat()
}

#[test]
fn bundles_are_read_or_refused_but_never_a_panic() {
    let good = archive(&kernel(4096, 0));
    let host = bundle::host(&good, image::parse).expect("good");
    assert_eq!((host.cmdline, host.initrd, host.image.size), ("quiet", (0, good.len()), 4096));
    assert_eq!(bundle::host(&[], image::parse).err(), Some(BootError::Bundle));
    let none = [cpio_entry("guest/kernel", b"x"), cpio_entry("TRAILER!!!", b"")].concat();
    assert_eq!(bundle::host(&none, image::parse).err(), Some(BootError::File("host/kernel")));
    for (size, text_offset) in [(0, 0), (127, 0), (u64::MAX, 0), (4096, 2 << 20), (4096, u64::MAX)] {
        assert!(
            matches!(bundle::host(&archive(&kernel(size, text_offset)), image::parse), Err(BootError::Image(_))),
            "{size:#x}"
        );
    }
    assert!(image::parse(&kernel(4096, 0)[..59], "k").is_err(), "cut within its header");
    let mut noise = Noise::seed(3);
    for length in 0..good.len() {
        let _ = bundle::host(&good[..length], image::parse);
    }
    for _ in 0..5000 {
        let mut bad = good.clone();
        for _ in 0..=noise.below(4) {
            let at = noise.below(bad.len() as u64) as usize;
            bad[at] = noise.pick(b"0123456789abcdefF/\0\xff+-");
        }
        let _ = bundle::host(&bad, image::parse);
        cpio::files(&bad).for_each(drop);
    }
}

#[test]
fn museum_6_what_is_set_up_hides_postern_and_the_its_from_the_host() {
    let world = World::new();
    world.check_empty();
    let core = &world.postern.core;
    let sees = |address| core.machine.translate(Space::Host, core.host_root(), address).is_some();
    for address in (RAM[0].start..0x4020_0000).step_by(4096) {
        assert!(!sees(address), "the host reaches Postern at {address:#x}");
        assert_eq!(world.frame(address).0, frame::POSTERN);
    }
    assert!((0x0808_0000..0x080A_0000).step_by(4096).all(|address| !sees(address)), "the ITS");
    for address in [0, 0x0807_F000, 0x080A_0000, 0x0900_0000, 0x4020_0000, 0x8000_0000, 0x8040_0000, (1 << 40) - 4096] {
        assert!(sees(address), "{address:#x}");
    }
    assert_eq!(core.lookup(Pfn::new(0)).state, guestmem::State::Absent);
}

#[test]
fn too_little_memory_is_said_and_not_assumed() {
    let info = World::boot_info();
    for size in [0, 4096, boot::HEAP_SIZE, boot::HEAP_SIZE + 3 * 4096] {
        let free = info.free.start..info.free.start + size;
        let short = BootInfo { free, machine: info.machine.clone(), image: info.image.clone(), ..World::boot_info() };
        assert!(matches!(boot::plan(&short), Err(BootError::Memory(_))), "{size:#x}");
    }
}

#[test]
fn wiping_at_boot_leaves_out_what_is_in_use_and_nothing_else() {
    let mut info = World::boot_info();
    let (bundle, firmware) = (0x4100_0000..0x4100_0800, 0x8000_3000..0x8000_5000);
    info.machine.initrd = Some(bundle.clone());
    info.machine.reserved.push(firmware.clone());
    let mut wiped = Vec::new();
    let bytes = boot::wipe(&info, &mut |range| wiped.push(range.clone())).expect("a good machine");
    assert_eq!(bytes, wiped.iter().map(|range| range.end - range.start).sum::<u64>());
    for frame in RAM.into_iter().flat_map(|range| range.step_by(0x1000)) {
        let used = [&info.image, &info.memory, &bundle, &firmware].iter().any(|range| range.contains(&frame));
        let count = wiped.iter().filter(|range| range.contains(&frame)).count();
        assert_eq!(count, usize::from(!used), "{frame:#x}");
    }
}

#[test]
fn the_host_is_put_where_nothing_else_is() {
    let archive = archive(&kernel(1 << 20, 0x8_0000));
    let mut tree = tree(&[(RAM[0].start, RAM[0].end - RAM[0].start), (RAM[1].start, RAM[1].end - RAM[1].start)]);
    tree.root.remove_child("chosen");
    let initrd = 0x4100_0000..0x4100_0000 + archive.len() as u64;
    let chosen = [("linux,initrd-start", &cells(&[initrd.start])[..]), ("linux,initrd-end", &cells(&[initrd.end])[..])];
    tree.root.add_child(node("chosen", &chosen));
    let blob: &'static [u8] = tree.to_dtb().leak();
    let machine = fdt::parse(blob).expect("good");
    let mut info = BootInfo { machine, tree: blob, ..World::boot_info() };
    let mut puts = Vec::new();
    let entry =
        boot::load_host(&info, &archive, &mut |bytes, at| puts.push((at..at + bytes.len() as u64, bytes.to_vec())))
            .expect("room enough");
    assert_eq!(entry.entry % (2 << 20), 0x8_0000);
    for (range, _) in &puts {
        assert!(RAM.iter().any(|ram| ram.start <= range.start && range.end <= ram.end));
        for own in [&info.image, &info.memory, &initrd] {
            assert!(!loader::overlap(range, own), "{range:x?} is on {own:x?}");
        }
    }
    assert!(!loader::overlap(&puts[0].0, &puts[1].0));
    let seen = fdt::parse(&puts[1].1).expect("the host's tree");
    assert!(seen.memory.iter().all(|range| !loader::overlap(range, &info.memory)));
    info.machine.initrd = None;
    assert_eq!(boot::load_host(&info, &archive, &mut |_, _| {}), Err(BootError::NoBundle));
}
