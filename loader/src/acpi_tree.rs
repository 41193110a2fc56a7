//! A device tree for a machine that firmware describes by ACPI alone: CPUs, interrupt controller, timer, PSCI and console,
//! as the bindings of Linux have them. Memory is not in it: that is for [`crate::boot_tree`] to add.
//!
//! What only the bytecode of ACPI describes (other devices, PCI windows) is not in it either.

use crate::acpi::{Interrupt, Psci, Tables};
use crate::host_tree::{property, range_node};
use crate::{BootError, Bytes};
use alloc::format;
use alloc::vec::Vec;
use dtoolkit::ToPropertyValue;
use dtoolkit::model::{DeviceTree, DeviceTreeNode};

/// Handles of the interrupt controller and of the console's clock.
const INTC: u32 = 1;
const CLOCK: u32 = 2;
/// First INTID of the interrupts of one CPU, and of the shared ones (GIC bindings).
const PPI: u32 = 16;
const SPI: u32 = 32;
/// Flags of an interrupt: rising edge, falling edge, high, low.
const FLAGS: [[u32; 2]; 2] = [[4, 8], [1, 2]];
const CELLS: (u32, u32) = (2, 2);
const NOTHING: &[u8] = &[];

/// Writes the tree.
///
/// # Errors
/// A node that cannot be made.
pub fn acpi_tree(tables: &Tables) -> Result<Vec<u8>, BootError> {
    let mut tree = DeviceTree::new();
    let root = &mut tree.root;
    set(root, "compatible", "linux,dummy-virt")?;
    set(root, "#address-cells", CELLS.0)?;
    set(root, "#size-cells", CELLS.1)?;
    set(root, "interrupt-parent", INTC)?;
    root.add_child(cpus(&tables.cpus)?);
    let mut psci = node("psci")?;
    set(&mut psci, "compatible", b"arm,psci-1.0\0arm,psci-0.2\0".as_slice())?;
    set(&mut psci, "method", if tables.psci == Psci::Smc { "smc" } else { "hvc" })?;
    root.add_child(psci);
    root.add_child(interrupt_controller(tables)?);
    root.add_child(timer(&tables.timer)?);
    if let Some((registers, interrupt)) = &tables.uart {
        let mut clock = node("console-clock")?;
        set(&mut clock, "compatible", "fixed-clock")?;
        set(&mut clock, "#clock-cells", 0u32)?;
        // What firmware has set up stays; drivers only want a number.
        set(&mut clock, "clock-frequency", 24_000_000u32)?;
        set(&mut clock, "phandle", CLOCK)?;
        root.add_child(clock);
        let uart = uart(registers, *interrupt)?;
        let mut chosen = node("chosen")?;
        set(&mut chosen, "stdout-path", format!("/{}", uart_name(registers)).as_str())?;
        root.add_child(uart);
        root.add_child(chosen);
    }
    for space in &tables.pci {
        // Only what is behind it would be known from bytecode.
        let mut pci = range_node("pcie", space, CELLS)?;
        set(&mut pci, "compatible", "pci-host-ecam-generic")?;
        set(&mut pci, "status", "disabled")?;
        root.add_child(pci);
    }
    Ok(tree.to_dtb())
}

fn node(name: &str) -> Result<DeviceTreeNode, BootError> {
    DeviceTreeNode::new(name).map_err(|_| BootError::DeviceTree)
}

fn set(node: &mut DeviceTreeNode, name: &str, value: impl ToPropertyValue) -> Result<(), BootError> {
    node.add_property(property(name, value)?);
    Ok(())
}

fn cells(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

fn cpus(affinities: &[u64]) -> Result<DeviceTreeNode, BootError> {
    let mut list = node("cpus")?;
    set(&mut list, "#address-cells", 2u32)?;
    set(&mut list, "#size-cells", 0u32)?;
    for affinity in affinities {
        let mut cpu = node(&format!("cpu@{affinity:x}"))?;
        set(&mut cpu, "device_type", "cpu")?;
        set(&mut cpu, "compatible", "arm,armv8")?;
        set(&mut cpu, "enable-method", "psci")?;
        set(&mut cpu, "reg", affinity.to_be_bytes().as_slice())?;
        list.add_child(cpu);
    }
    Ok(list)
}

fn interrupt_controller(tables: &Tables) -> Result<DeviceTreeNode, BootError> {
    let mut intc = range_node("intc", &tables.distributor, CELLS)?;
    intc.remove_property("reg");
    let regions = [&tables.distributor].into_iter().chain(&tables.redistributors);
    let reg: Vec<u8> = regions.flat_map(|r| [r.start, r.end - r.start]).flat_map(u64::to_be_bytes).collect();
    set(&mut intc, "reg", reg.as_slice())?;
    set(&mut intc, "compatible", "arm,gic-v3")?;
    set(&mut intc, "#redistributor-regions", tables.redistributors.len() as u32)?;
    set(&mut intc, "#interrupt-cells", 3u32)?;
    set(&mut intc, "interrupt-controller", NOTHING)?;
    set(&mut intc, "#address-cells", CELLS.0)?;
    set(&mut intc, "#size-cells", CELLS.1)?;
    set(&mut intc, "ranges", NOTHING)?;
    set(&mut intc, "phandle", INTC)?;
    for registers in &tables.its {
        let mut its = range_node("its", registers, CELLS)?;
        set(&mut its, "compatible", "arm,gic-v3-its")?;
        set(&mut its, "msi-controller", NOTHING)?;
        set(&mut its, "#msi-cells", 1u32)?;
        intc.add_child(its);
    }
    Ok(intc)
}

fn timer(interrupts: &[Interrupt; 4]) -> Result<DeviceTreeNode, BootError> {
    let mut timer = node("timer")?;
    let list = interrupts
        .iter()
        .flat_map(|it| [1, it.number.saturating_sub(PPI), FLAGS[usize::from(it.edge)][usize::from(it.low)]]);
    set(&mut timer, "compatible", b"arm,armv8-timer\0".as_slice())?;
    set(&mut timer, "interrupts", cells(&list.collect::<Vec<_>>()).as_slice())?;
    set(&mut timer, "always-on", NOTHING)?;
    Ok(timer)
}

fn uart_name(registers: &Bytes) -> alloc::string::String {
    format!("pl011@{:x}", registers.start)
}

fn uart(registers: &Bytes, interrupt: u32) -> Result<DeviceTreeNode, BootError> {
    let mut uart = range_node("pl011", registers, CELLS)?;
    set(&mut uart, "compatible", b"arm,pl011\0arm,primecell\0".as_slice())?;
    if interrupt >= SPI {
        set(&mut uart, "interrupts", cells(&[0, interrupt - SPI, FLAGS[0][0]]).as_slice())?;
    }
    set(&mut uart, "clocks", cells(&[CLOCK, CLOCK]).as_slice())?;
    set(&mut uart, "clock-names", b"uartclk\0apb_pclk\0".as_slice())?;
    Ok(uart)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::acpi::{self, Read};
    use crate::{boot_tree, fdt, memory_map};
    use std::vec;

    pub const RSDP: u64 = 0x40;

    /// 64 KiB of memory at address 0 with tables like those of the emulator's machine.
    pub fn memory(redistributors: bool) -> Vec<u8> {
        let mut memory = vec![0; 0x1_0000];
        let mut madt = vec![0; 8];
        for cpu in 0..3_u64 {
            let mut entry = vec![0; 80];
            (entry[0], entry[1], entry[12]) = (0xb, 80, u8::from(cpu < 2));
            entry[60..68].copy_from_slice(&(0x080a_0000 + cpu * 0x2_0000).to_le_bytes());
            entry[68..76].copy_from_slice(&(0x8000_0100 + cpu).to_le_bytes());
            madt.extend(entry);
        }
        let mut distributor = vec![0xc, 24, 0, 0, 0, 0, 0, 0];
        distributor.extend(0x0800_0000_u64.to_le_bytes());
        distributor.extend([0, 0, 0, 0, 3, 0, 0, 0]);
        madt.extend(distributor);
        if redistributors {
            madt.extend([0xe, 16, 0, 0]);
            madt.extend(0x0a00_0000_u64.to_le_bytes());
            madt.extend(0xf6_0000_u32.to_le_bytes());
        }
        madt.extend([0xf, 20, 0, 0, 0, 0, 0, 0]);
        madt.extend(0x0808_0000_u64.to_le_bytes());
        madt.extend([0; 4]);
        let mut gtdt = vec![0; 60];
        for (at, number) in [(12, 29), (20, 30), (28, 27), (36, 26)] {
            gtdt[at] = number;
        }
        gtdt[32] = 3;
        let mut fadt = vec![0; 240];
        fadt[129 - 36] = 1;
        let mut spcr = vec![0; 44];
        (spcr[0], spcr[4], spcr[16], spcr[18]) = (3, 0, 8, 33);
        spcr[8..16].copy_from_slice(&0x0900_0000_u64.to_le_bytes());
        let mut mcfg = vec![0; 24];
        mcfg[8..16].copy_from_slice(&0x40_1000_0000_u64.to_le_bytes());
        mcfg[19] = 255;
        let all: [(&[u8; 4], &[u8]); 5] =
            [(b"FACP", &fadt), (b"APIC", &madt), (b"GTDT", &gtdt), (b"SPCR", &spcr), (b"MCFG", &mcfg)];
        let mut list = Vec::new();
        for (index, (signature, content)) in all.into_iter().enumerate() {
            let at = 0x1000 * (index + 2);
            list.extend((at as u64).to_le_bytes());
            put(&mut memory, at, signature, content);
        }
        put(&mut memory, 0x1000, b"XSDT", &list);
        let at = RSDP as usize;
        memory[at..at + 8].copy_from_slice(b"RSD PTR ");
        memory[at + 15] = 2;
        memory[at + 20] = 36;
        memory[at + 24..at + 32].copy_from_slice(&0x1000_u64.to_le_bytes());
        sign(&mut memory[at..at + 20], 8);
        sign(&mut memory[at..at + 36], 32);
        memory
    }

    fn put(memory: &mut [u8], at: usize, signature: &[u8; 4], content: &[u8]) {
        let size = 36 + content.len();
        memory[at..at + 4].copy_from_slice(signature);
        memory[at + 4..at + 8].copy_from_slice(&(size as u32).to_le_bytes());
        memory[at + 36..at + size].copy_from_slice(content);
        sign(&mut memory[at..at + size], 9);
    }

    /// Makes the sum of all bytes zero.
    pub fn sign(bytes: &mut [u8], at: usize) {
        bytes[at] = 0;
        bytes[at] = bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte));
    }

    /// Calls `work` with what reads such memory.
    pub fn with<R>(memory: &[u8], work: impl FnOnce(Read<'_>) -> R) -> R {
        work(&|at, size| memory.get(usize::try_from(at).ok()?..)?.get(..size))
    }

    #[test]
    fn tables_become_a_tree_that_postern_reads() {
        let memory = memory(true);
        let tables = with(&memory, |read| acpi::read(RSDP, read)).unwrap();
        assert_eq!(tables.timer.map(|timer| timer.number), [29, 30, 27, 26]);
        assert!(tables.timer[2].edge && tables.timer[2].low && !tables.timer[0].edge);
        let mut map = memory_map::MemoryMap::new();
        memory_map::add(&mut map, &(0x4000_0000..0x8000_0000), abi::handoff::memory::FREE);
        let record = 0x6000_0000..0x6000_1000;
        let facts =
            boot_tree::Facts { memory: &map, bundle: 0x5000_0000..0x5000_1000, record, console: None, seed: None };
        let blob = boot_tree::boot_tree(&acpi_tree(&tables).unwrap(), &facts).unwrap();
        let machine = fdt::parse(&blob).unwrap();
        assert_eq!(machine.cpus.as_slice(), [0x100, 0x101], "the third one is not there");
        assert_eq!(machine.distributor, 0x0800_0000..0x0801_0000);
        assert_eq!(machine.redistributors.as_slice(), std::slice::from_ref(&(0x0a00_0000..0x0af6_0000)));
        assert_eq!(machine.its.as_slice(), std::slice::from_ref(&(0x0808_0000..0x080a_0000)));
        assert_eq!(machine.uart, Some(0x0900_0000..0x0900_1000));
        assert_eq!(fdt::console(&blob), machine.uart);
        assert_eq!(tables.pci.as_slice(), std::slice::from_ref(&(0x40_1000_0000..0x40_2000_0000)));
    }

    #[test]
    fn cpus_bring_their_redistributors_where_no_region_is_listed() {
        let memory = memory(false);
        let tables = with(&memory, |read| acpi::read(RSDP, read)).unwrap();
        assert_eq!(
            tables.redistributors.as_slice(),
            std::slice::from_ref(&(0x080a_0000..0x080e_0000)),
            "neighbours are one"
        );
    }

    #[test]
    fn what_is_missing_or_damaged_is_said() {
        let said = |change: fn(&mut Vec<u8>)| {
            let mut memory = memory(true);
            change(&mut memory);
            let error = with(&memory, |read| acpi::read(RSDP, read)).unwrap_err();
            std::string::ToString::to_string(&error)
        };
        assert!(said(|memory| memory[RSDP as usize] = 0).contains("root"));
        assert!(said(|memory| memory[0x1030] ^= 1).contains("root"));
        assert!(said(|memory| memory[0x3030] ^= 1).contains("damaged"), "the MADT's sum");
        assert!(said(|memory| memory[0x4000] = b'X').contains("GTDT"));
        assert!(
            said(|memory| {
                memory[0x2000 + 129] = 0;
                sign(&mut memory[0x2000..0x2000 + 276], 9);
            })
            .contains("PSCI")
        );
        assert!(
            said(|memory| {
                memory[0x3000 + 45] = 0;
                let size = u32::from_le_bytes(memory[0x3004..0x3008].try_into().unwrap()) as usize;
                sign(&mut memory[0x3000..0x3000 + size], 9);
            })
            .contains("entries")
        );
    }
}
