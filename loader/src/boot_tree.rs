//! The device tree that Postern is given: the firmware's, with what only the firmware's memory map and the application
//! know. This is what the boot stub of a Linux kernel does for Linux.

use crate::host_tree::{cell_count, children, memory_node, property, range_node};
use crate::memory_map::{MemoryMap, extents, reserved};
use crate::{BootError, Bytes};
use abi::handoff::TREE_PROPERTY;
use alloc::string::String;
use alloc::vec::Vec;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode};
use dtoolkit::{Node, Property};

/// Most ranges of the firmware's that are set aside one by one.
const RESERVED_MAX: usize = 20;

/// The value of a property that only has to be there.
const NOTHING: &[u8] = &[];

/// What the tree is to say.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The firmware's memory map. It is the truth: what a tree says of memory may be older.
    pub memory: &'a MemoryMap,
    /// The bundle.
    pub bundle: Bytes,
    /// The record and the measurements, which the host may read but not overwrite: one range.
    pub record: Bytes,
    /// `stdout-path`, when it is not to be the firmware's.
    pub console: Option<&'a str>,
    /// Random bytes for the host's kernel.
    pub seed: Option<[u8; 64]>,
}

/// Writes the tree.
///
/// # Errors
/// A tree that cannot be parsed, or a node that cannot be made.
pub fn boot_tree(blob: &[u8], facts: &Facts<'_>) -> Result<Vec<u8>, BootError> {
    let fdt = Fdt::new(blob).map_err(|_| BootError::DeviceTree)?;
    let mut tree = DeviceTree::from_fdt(&fdt);
    let cells = (cell_count(&tree.root, "#address-cells"), cell_count(&tree.root, "#size-cells"));
    for name in children(&tree.root, "memory") {
        tree.root.remove_child(&name);
    }
    for range in extents(facts.memory) {
        tree.root.add_child(memory_node(&range, cells)?);
    }
    let list = child(&mut tree.root, "reserved-memory")?;
    if list.property("ranges").is_none() {
        list.add_property(property("#address-cells", cells.0)?);
        list.add_property(property("#size-cells", cells.1)?);
        list.add_property(property("ranges", NOTHING)?);
    }
    let inner = (cell_count(list, "#address-cells"), cell_count(list, "#size-cells"));
    for range in reserved(facts.memory, RESERVED_MAX) {
        let mut node = range_node("firmware", &range, inner)?;
        // Firmware may have these ranges mapped in its own way: nobody else maps them at all.
        node.add_property(property("no-map", NOTHING)?);
        list.add_child(node);
    }
    list.add_child(range_node("postern-record", &facts.record, inner)?);
    chosen(child(&mut tree.root, "chosen")?, facts)?;
    Ok(tree.to_dtb())
}

fn chosen(node: &mut DeviceTreeNode, facts: &Facts<'_>) -> Result<(), BootError> {
    // Nothing of a boot loader that was here before, nor of a firmware that booted Linux itself.
    let stale = ["linux,uefi-", "linux,initrd-", "bootargs", "rng-seed", "kaslr-seed", "postern,"];
    let names: Vec<_> = node.properties().map(|property| String::from(property.name())).collect();
    for name in names.iter().filter(|name| stale.iter().any(|stale| name.starts_with(stale))) {
        node.remove_property(name);
    }
    node.add_property(property("linux,initrd-start", facts.bundle.start)?);
    node.add_property(property("linux,initrd-end", facts.bundle.end)?);
    node.add_property(property(TREE_PROPERTY, facts.record.start)?);
    if let Some(path) = facts.console {
        node.remove_property("stdout-path");
        node.add_property(property("stdout-path", path)?);
    }
    if let Some(seed) = facts.seed {
        node.add_property(property("rng-seed", seed.as_slice())?);
    }
    Ok(())
}

fn child<'a>(root: &'a mut DeviceTreeNode, name: &str) -> Result<&'a mut DeviceTreeNode, BootError> {
    if root.child(name).is_none() {
        root.add_child(DeviceTreeNode::new(name).map_err(|_| BootError::DeviceTree)?);
    }
    root.child_mut(name).ok_or(BootError::DeviceTree)
}
