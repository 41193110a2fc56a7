//! Entry points for fuzzing: each takes any bytes, and fails by a panic when what a reader answers breaks its promise.
//!
//! The tests below drive them with damaged copies of good inputs, in the same order in every run.

use crate::machine::Machine;
use crate::memory_map::MemoryMap;
use crate::{
    acpi, acpi_tree, archive, boot_tree, config, cpio, elf, eventlog, fdt, handoff, image, multiboot, received, tpm,
};
use alloc::string::ToString;

/// The settings of the UEFI application.
pub fn settings(data: &[u8]) {
    match config::parse(data) {
        Ok(config) => {
            assert!(config.bundle.is_some() || config.host_kernel.is_some());
            for path in [config.hypervisor, config.bundle, config.host_kernel, config.device_tree].into_iter().flatten()
            {
                assert!(path.starts_with(['/', '\\']) && path.chars().count() <= config::PATH_MAX);
            }
        }
        Err(error) => {
            assert!(error.line <= data.iter().filter(|byte| **byte == b'\n').count() + 1);
            // Whatever is in the file, the message can be shown.
            assert!(!error.to_string().chars().any(|c| c.is_control() && c != '\t'));
        }
    }
}

/// An ELF program.
pub fn program(data: &[u8]) {
    let head = &data[..data.len().min(elf::HEADERS_MAX)];
    if let Ok(program) = elf::parse(head, data.len() as u64, elf::X86_64) {
        let mut end = program.memory.start;
        for segment in &program.segments {
            assert!(segment.memory.start >= end && segment.size <= segment.memory.end - segment.memory.start);
            assert!(segment.offset + segment.size <= data.len() as u64);
            end = segment.memory.end;
        }
        assert!(end == program.memory.end && program.memory.contains(&program.entry));
    }
}

/// The hand-off record with the memory map behind it.
pub fn record(data: &[u8]) {
    if let Ok(record) = handoff::parse(data) {
        assert!(handoff::bytes(&record.bundle).is_some());
        let mut again = [0; handoff::SIZE];
        assert_eq!(handoff::write(&record, &mut again), Some(handoff::SIZE));
        let size = handoff::SIZE.min(record.size as usize);
        assert!(again[..size] == data[..size] && again[size..].iter().all(|byte| *byte == 0));
        if let Ok(map) = handoff::memory_map(data.get(handoff::SIZE..).unwrap_or_default(), record.memory_count) {
            assert!(map.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }
}

/// The record as Postern takes it, in memory that starts at an address of its own.
pub fn received(data: &[u8]) {
    const AT: u64 = 0x1000;
    let mut machine = Machine { hand_off: Some(AT), ..Machine::default() };
    machine.memory.push(AT..AT + data.len() as u64);
    let read = |range: &crate::Bytes| data.get((range.start - AT) as usize..(range.end - AT) as usize);
    let received = received::receive(&mut machine, core::slice::from_ref(&(AT + 4096..AT + 8192)), &read)
        .0
        .expect("there is a record")
        .ok();
    let taken = received.is_some();
    assert!(taken == machine.hand_off.is_some() && taken == machine.reserved.iter().any(|kept| kept.contains(&AT)));
    assert!(machine.reserved.iter().all(|kept| AT <= kept.start && kept.end <= AT + data.len() as u64));
    if let Some(screen) = received.and_then(|received| received.screen()) {
        let elements = u64::from(screen.stride) * u64::from(screen.height);
        assert!(elements * 4 <= screen.memory.end - screen.memory.start && screen.width <= screen.stride);
    }
}

/// Multiboot2 boot information.
pub fn multiboot_info(data: &[u8]) {
    // Boot information is at a multiple of eight.
    let mut room = alloc::vec![0u64; data.len().div_ceil(8)];
    for (word, bytes) in room.iter_mut().zip(data.chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(whole);
    }
    let bytes: alloc::vec::Vec<u8> = room.iter().flat_map(|word| word.to_ne_bytes()).collect();
    if let Ok(machine) = multiboot::parse(&bytes, 0x1000) {
        assert!(machine.initrd.is_some() && machine.memory.windows(2).all(|pair| pair[0].end <= pair[1].start));
    }
}

/// Memory with ACPI's tables, from address 0 on.
pub fn acpi_tables(data: &[u8]) {
    let tables = acpi::read(0x40, &|at, size| data.get(usize::try_from(at).ok()?..)?.get(..size));
    if let Ok(tables) = tables {
        let tree = acpi_tree::acpi_tree(&tables).expect("names and values that a tree may have");
        // A tree without memory, but with all else.
        assert!(matches!(fdt::parse(&tree), Err(crate::BootError::Node("memory" | "PSCI with method smc"))));
    }
}

/// What a TPM answers when its registers are read.
pub fn tpm_answer(data: &[u8]) {
    if let Some(values) = tpm::values(data) {
        assert!(data[30..][..48] == values[0] && data[80..][..48] == values[1]);
    }
}

/// A log of measurements.
pub fn event_log(data: &[u8]) {
    assert!(eventlog::events(data).count() * (18 + eventlog::DIGEST_SIZE) <= data.len());
}

/// An archive, a kernel's header and a device tree: what comes from a boot volume as it is.
pub fn files(data: &[u8]) {
    for file in cpio::files(data).map_while(Result::ok) {
        assert_eq!(&data[file.offset..][..file.data.len()], file.data);
    }
    let _ = image::parse(data, "fuzz");
    let _ = fdt::parse(data);
    let facts = boot_tree::Facts { memory: &MemoryMap::new(), bundle: 0..1, record: 0..1, console: None, seed: None };
    if let Ok(tree) = boot_tree::boot_tree(data, &facts) {
        let _ = fdt::parse(&tree);
    }
    let _ = archive::Plan::default().file("fuzz", data.len());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::program as elf_program;
    use abi::handoff::MemoryRange;
    use std::vec::Vec;

    /// A generator of numbers (xorshift64*), the same in every run.
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
        }

        fn below(&mut self, end: usize) -> usize {
            (self.next() % end.max(1) as u64) as usize
        }
    }

    /// Damages copies of `seed` in a few places each, and cuts some short.
    fn storm(seed: &[u8], entry: fn(&[u8])) {
        let mut numbers = Numbers(0x0123_4567_89ab_cdef);
        entry(seed);
        for _ in 0..20_000 {
            let mut data = Vec::from(seed);
            for _ in 0..=numbers.below(4) {
                let at = numbers.below(data.len());
                let extremes = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'='];
                data[at] = match numbers.below(3) {
                    0 => data[at] ^ 1 << numbers.below(8),
                    1 => extremes[numbers.below(extremes.len())],
                    _ => numbers.next() as u8,
                };
            }
            if numbers.below(4) == 0 {
                data.truncate(numbers.below(seed.len() + 1));
            }
            entry(&data);
        }
    }

    #[test]
    fn settings_survive_damage() {
        storm(b"# x\nbundle = /a\nhost-kernel=\\b\ntpm = off\nlog-level = info\nconsole = uart0\n", settings);
    }

    #[test]
    fn programs_survive_damage() {
        let mut file = elf_program(&[(5, 0, 0x1000, 64, 64), (6, 64, 0x2000, 16, 4096)], 0x1000);
        file.resize(512, 0);
        assert!(elf::parse(&file, 512, elf::X86_64).is_ok());
        storm(&file, program);
    }

    #[test]
    fn records_survive_damage() {
        let map: MemoryMap = [MemoryRange { start: 0, end: 0x1000, kind: 1 }].into_iter().collect();
        let mut data = std::vec![0; handoff::SIZE + handoff::RANGE_SIZE];
        let facts = abi::handoff::HandOff { memory_count: 1, ..handoff::EMPTY };
        handoff::write(&facts, &mut data);
        handoff::write_memory_map(&map, &mut data[handoff::SIZE..]);
        assert!(handoff::parse(&data).is_ok());
        storm(&data, record);
        let mut log = eventlog::EventLog::new();
        log.append(9, &[1; eventlog::DIGEST_SIZE], "file");
        let facts = abi::handoff::HandOff {
            event_log: abi::handoff::Region { start: 0x1000 + data.len() as u64, size: log.bytes().len() as u64 },
            framebuffer: abi::handoff::Region { start: 0x8000_0000, size: 0x1000 },
            resolution: [32, 32],
            stride: 32,
            pixel_format: 1,
            ..facts
        };
        handoff::write(&facts, &mut data);
        data.extend(log.bytes());
        storm(&data, received);
    }

    #[test]
    fn boot_information_survives_damage() {
        let map: MemoryMap = [MemoryRange { start: 0x10_0000, end: 0x4000_0000, kind: 1 }].into_iter().collect();
        let bundle = abi::handoff::Region { start: 0x20_0000, size: 0x1000 };
        let facts = abi::handoff::HandOff { bundle, ..handoff::EMPTY };
        let info = crate::multiboot_info::write(&facts, &map, Some(&[0; 36]), &(0x30_0000..0x30_1000)).unwrap();
        assert!(multiboot::parse(&info, 0x1000).is_ok());
        storm(&info, multiboot_info);
    }

    #[test]
    fn logs_and_files_survive_damage() {
        let mut log = eventlog::EventLog::new();
        log.append(9, &[1; eventlog::DIGEST_SIZE], "file");
        log.append(8, &[2; eventlog::DIGEST_SIZE], "settings");
        storm(log.bytes(), event_log);
        storm(&tree(), files);
    }

    #[test]
    fn acpi_tables_survive_damage() {
        let memory = acpi_tree::tests::memory(true);
        // Only where there is something, and with sums that are right, or nothing would get far.
        let mut numbers = Numbers(0x0123_4567_89ab_cdef);
        let tables = [0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000];
        acpi_tables(&memory);
        for _ in 0..4_000 {
            let mut bad = memory.clone();
            for _ in 0..=numbers.below(3) {
                let table = tables[numbers.below(tables.len())];
                let size = u32::from_le_bytes(memory[table + 4..table + 8].try_into().unwrap()) as usize;
                let at = table + numbers.below(size);
                bad[at] = [0, 1, 0x7f, 0x80, 0xff, numbers.next() as u8][numbers.below(6)];
                let size = u32::from_le_bytes(bad[table + 4..table + 8].try_into().unwrap()) as usize;
                acpi_tree::tests::sign(&mut bad[table..table + size.clamp(10, 0x1000)], 9);
            }
            acpi_tables(&bad);
        }
    }

    #[test]
    fn tpm_answers_survive_damage() {
        let answer = tpm::tests::answer(&[[1; 48], [2; 48]]);
        assert!(tpm::values(&answer).is_some());
        storm(&answer, tpm_answer);
    }

    /// A device tree that a boot could start from.
    pub(crate) fn tree() -> Vec<u8> {
        use crate::host_tree::property;
        use dtoolkit::model::{DeviceTree, DeviceTreeNode};
        let mut tree = DeviceTree::new();
        for (name, value) in [("#address-cells", 2u32), ("#size-cells", 2u32)] {
            tree.root.add_property(property(name, value).unwrap());
        }
        let old = crate::host_tree::memory_node(&(0x1000..0x2000), (2, 2)).unwrap();
        tree.root.add_child(old);
        let mut chosen = DeviceTreeNode::new("chosen").unwrap();
        for (name, value) in [("bootargs", "quiet"), ("stdout-path", "/uart"), ("linux,uefi-mmap-start", "x")] {
            chosen.add_property(property(name, value).unwrap());
        }
        tree.root.add_child(chosen);
        tree.to_dtb()
    }

    #[test]
    fn a_boot_tree_says_what_the_firmware_s_map_says() {
        use dtoolkit::fdt::Fdt;
        use dtoolkit::{Node, Property};
        let map: MemoryMap =
            [(0x4000_0000, 0x4100_0000, 1), (0x4100_0000, 0x4101_0000, 3), (0x4101_0000, 0x8000_0000, 1)]
                .map(|(start, end, kind)| MemoryRange { start, end, kind })
                .into_iter()
                .collect();
        let (bundle, record) = (0x5000_0000..0x5000_1234, 0x6000_0000..0x6000_1000);
        let facts = boot_tree::Facts { memory: &map, bundle, record, console: Some("/other"), seed: Some([7; 64]) };
        let blob = boot_tree::boot_tree(&tree(), &facts).unwrap();
        let fdt = Fdt::new(&blob).unwrap();
        let root = fdt.root();
        let names: Vec<_> = root.children().map(|node| std::string::String::from(node.name())).collect();
        assert_eq!(names, ["chosen", "memory@40000000", "reserved-memory"], "old memory is gone, pieces are one");
        let chosen = root.child("chosen").unwrap();
        let value = |name: &str| chosen.property(name).map(|property| Vec::from(property.value()));
        assert_eq!(value("linux,initrd-end"), Some(Vec::from(0x5000_1234u64.to_be_bytes())));
        assert_eq!(value("postern,hand-off"), Some(Vec::from(0x6000_0000u64.to_be_bytes())));
        assert_eq!(value("stdout-path"), Some(b"/other\0".to_vec()));
        assert_eq!(value("rng-seed"), Some(std::vec![7; 64]));
        assert_eq!((value("bootargs"), value("linux,uefi-mmap-start")), (None, None));
        let reserved = root.child("reserved-memory").unwrap();
        assert!(reserved.child("firmware@41000000").unwrap().property("no-map").is_some());
        assert!(reserved.child("postern-record@60000000").unwrap().property("no-map").is_none());
    }
}
