//! What the programs need of the device tree they are given.

use crate::list::List;
use core::ops::Range;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};

/// The machine, real or virtual.
#[derive(Default)]
pub struct Machine {
    /// RAM.
    pub memory: List<Range<u64>>,
    /// Memory not to be used: `/reserved-memory` and the reservation block.
    pub reserved: List<Range<u64>>,
    /// MPIDR affinities of the CPUs.
    pub cpus: List<u64>,
    /// Addresses of the PL011s, sorted.
    pub uarts: List<u64>,
    /// GICv3 distributor.
    pub distributor: u64,
    /// First GICv3 redistributor.
    pub redistributors: u64,
    /// Interrupt translation service, zero when there is none.
    pub its: u64,
    /// The initrd.
    pub initrd: Range<u64>,
    /// The kernel command line.
    pub arguments: &'static str,
    /// Address of the record that a boot through UEFI has left; 0 when there is none.
    pub record: u64,
    /// A screen that firmware has set up: a device tree tells of none here.
    pub screen: Option<loader::screen::Layout>,
    /// PSCI by SMC rather than HVC.
    pub psci_by_smc: bool,
}

/// The blob at `address`, or an empty slice when there is none.
///
/// # Safety
/// A device tree blob at `address` has to stay unchanged from now on.
pub(super) unsafe fn blob(address: *const u8) -> &'static [u8] {
    const MAGIC: u32 = 0xd00d_feed;
    if address.is_null() || !address.addr().is_multiple_of(8) {
        return &[];
    }
    // SAFETY: the caller promises a blob, which starts with its magic and its size, both big endian.
    unsafe {
        if u32::from_be(address.cast::<u32>().read()) != MAGIC {
            return &[];
        }
        let size = u32::from_be(address.add(4).cast::<u32>().read());
        core::slice::from_raw_parts(address, size as usize)
    }
}

impl Machine {
    /// Reads the tree; a damaged one reads as an empty machine.
    pub fn parse(blob: &'static [u8]) -> Self {
        let mut machine = Self::default();
        let Ok(tree) = Fdt::new(blob) else { return machine };
        for entry in tree.memory_reservations() {
            machine.reserved.push(entry.address()..entry.address() + entry.size());
        }
        for node in tree.root().children() {
            match node.name_without_address() {
                "memory" => ranges(node).for_each(|range| machine.memory.push(range)),
                "reserved-memory" => {
                    node.children().flat_map(ranges).for_each(|range| machine.reserved.push(range));
                }
                "cpus" => {
                    let cpus = node.children().filter(|cpu| cpu.name_without_address() == "cpu");
                    cpus.filter_map(|cpu| integer(&cpu, "reg")).for_each(|affinity| machine.cpus.push(affinity));
                }
                "chosen" => {
                    machine.arguments = text(&node, "bootargs").unwrap_or("");
                    machine.record = integer(&node, abi::handoff::TREE_PROPERTY).unwrap_or(0);
                    let bound = |name| integer(&node, name).unwrap_or(0);
                    machine.initrd = bound("linux,initrd-start")..bound("linux,initrd-end");
                }
                "psci" => machine.psci_by_smc = text(&node, "method") == Some("smc"),
                _ => machine.device(node),
            }
        }
        machine.uarts.sort_unstable();
        machine
    }

    fn device(&mut self, node: FdtNode<'static>) {
        if node.is_compatible("arm,gic-v3") {
            let mut frames = ranges(node).map(|range| range.start);
            self.distributor = frames.next().unwrap_or(0);
            self.redistributors = frames.next().unwrap_or(0);
        }
        if node.is_compatible("arm,gic-v3-its") {
            self.its = ranges(node).next().map_or(0, |range| range.start);
        }
        if node.is_compatible("arm,pl011") {
            ranges(node).for_each(|range| self.uarts.push(range.start));
        }
        for child in node.children() {
            self.device(child);
        }
    }
}

fn ranges(node: FdtNode<'static>) -> impl Iterator<Item = Range<u64>> {
    let list = node.reg().ok().flatten().into_iter().flatten();
    list.filter_map(|reg| {
        let start = reg.address::<u64>().ok()?;
        Some(start..start.checked_add(reg.size::<u64>().ok()?)?)
    })
}

fn text(node: &FdtNode<'static>, name: &str) -> Option<&'static str> {
    node.property(name)?.value_as::<&'static str>().ok()
}

/// A property of one or two cells.
fn integer(node: &FdtNode<'static>, name: &str) -> Option<u64> {
    let property = node.property(name)?;
    let bytes = property.value();
    match bytes.len() {
        4 => Some(u32::from_be_bytes(bytes.try_into().ok()?).into()),
        8 => Some(u64::from_be_bytes(bytes.try_into().ok()?)),
        _ => None,
    }
}
