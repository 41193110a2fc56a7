//! The device tree that the host gets: the machine's own, without what is Postern's or would be a hole in stage 2.

use crate::fdt::DEPTH_MAX;
use crate::machine::Machine;
use crate::{BootError, Bytes};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property, ToPropertyValue};

/// Writes the host's tree. `blob` is one that [`crate::fdt::parse`] has accepted, and `machine` what that said of it.
///
/// * Memory is what the machine has minus `postern`.
/// * Interrupt translation services disappear: their tables are physical addresses that stage 2 does not see.
/// * `/chosen` names the host's own initrd and command line, and the application's record only when Postern took it.
///
/// # Errors
/// A tree that cannot be parsed, or a node that cannot be made.
pub fn host_tree(
    blob: &[u8],
    machine: &Machine,
    postern: &[Bytes],
    initrd: Option<&Bytes>,
    cmdline: &str,
) -> Result<Vec<u8>, BootError> {
    let fdt = Fdt::new(blob).map_err(|_| BootError::DeviceTree)?;
    let mut tree = DeviceTree::from_fdt(&fdt);
    let memory: Vec<String> = children(&tree.root, "memory");
    for name in memory {
        tree.root.remove_child(&name);
    }
    let cells = (cell_count(&tree.root, "#address-cells"), cell_count(&tree.root, "#size-cells"));
    for range in crate::layout::without(&machine.memory, postern) {
        tree.root.add_child(memory_node(&range, cells)?);
    }
    remove_translation_services(&mut tree.root, 0);
    let chosen = match tree.root.child_mut("chosen") {
        Some(node) => node,
        None => tree.root.add_child_mut(DeviceTreeNode::new("chosen").map_err(|_| BootError::DeviceTree)?),
    };
    for name in ["linux,initrd-start", "linux,initrd-end", "bootargs"] {
        chosen.remove_property(name);
    }
    if machine.hand_off.is_none() {
        chosen.remove_property(abi::handoff::TREE_PROPERTY);
    }
    if let Some(range) = initrd {
        chosen.add_property(property("linux,initrd-start", range.start)?);
        chosen.add_property(property("linux,initrd-end", range.end)?);
    }
    chosen.add_property(property("bootargs", cmdline)?);
    Ok(tree.to_dtb())
}

pub(crate) fn memory_node(range: &Bytes, cells: (u32, u32)) -> Result<DeviceTreeNode, BootError> {
    let mut node = range_node("memory", range, cells)?;
    node.add_property(property("device_type", "memory")?);
    Ok(node)
}

/// A node for a range of addresses, below a node with so many cells for address and size.
pub(crate) fn range_node(name: &str, range: &Bytes, cells: (u32, u32)) -> Result<DeviceTreeNode, BootError> {
    let mut node = DeviceTreeNode::new(format!("{name}@{:x}", range.start)).map_err(|_| BootError::DeviceTree)?;
    let mut reg = Vec::new();
    for (value, count) in [(range.start, cells.0), (range.end - range.start, cells.1)] {
        let bytes = value.to_be_bytes();
        reg.extend_from_slice(bytes.get(8 - 4 * count as usize..).ok_or(BootError::DeviceTree)?);
    }
    node.add_property(property("reg", reg.as_slice())?);
    Ok(node)
}

pub(crate) fn property(name: &str, value: impl ToPropertyValue) -> Result<DeviceTreeProperty, BootError> {
    DeviceTreeProperty::new(name, value).map_err(|_| BootError::DeviceTree)
}

/// Cells of an address or size at the root: one or two (Devicetree Specification section 2.3.5, default 2 and 1).
pub(crate) fn cell_count(root: &DeviceTreeNode, name: &str) -> u32 {
    let default = if name == "#address-cells" { 2 } else { 1 };
    root.property(name).and_then(|property| property.value_as::<u32>().ok()).unwrap_or(default).clamp(1, 2)
}

pub(crate) fn children(node: &DeviceTreeNode, base: &str) -> Vec<String> {
    let names = node.children().map(|child| child.name().to_string());
    names.filter(|name| name.split('@').next() == Some(base)).collect()
}

fn remove_translation_services(node: &mut DeviceTreeNode, depth: u32) {
    let doomed: Vec<String> = node
        .children()
        .filter(|child| {
            child
                .property("compatible")
                .is_some_and(|list| list.value().split(|byte| *byte == 0).any(|name| name == b"arm,gic-v3-its"))
        })
        .map(|child| child.name().to_string())
        .collect();
    for name in doomed {
        node.remove_child(&name);
    }
    node.remove_property("msi-map");
    if depth <= DEPTH_MAX {
        for child in node.children_mut() {
            remove_translation_services(child, depth + 1);
        }
    }
}
