//! What Postern reads of the machine's device tree (Devicetree Specification 0.4; Linux device tree bindings for the
//! interrupt controller, the UART and PSCI).

use crate::machine::{Machine, RANGES_MAX};
use crate::{BootError, Bytes};
use arrayvec::ArrayVec;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

/// Deepest nesting of nodes below the root: trees are walked recursively, and what is not looked at is not hidden from
/// the host either. Boards have half of that.
pub(crate) const DEPTH_MAX: u32 = 16;

/// The UART of a tree that may lack everything else: where to say so.
pub fn console(blob: &[u8]) -> Option<Bytes> {
    let fdt = Fdt::new(blob).ok()?;
    let mut machine = Machine::default();
    stdout(&fdt).or_else(|| {
        for node in fdt.root().children() {
            // What is wrong with the rest of the tree is `parse`'s business.
            let _ = devices(&node, &mut machine, 0);
        }
        machine.uart
    })
}

/// Reads the blob.
///
/// # Errors
/// See [`BootError`]; a tree without memory, CPUs, a GICv3 or PSCI through SMC is refused.
pub fn parse(blob: &[u8]) -> Result<Machine, BootError> {
    let fdt = Fdt::new(blob).map_err(|_| BootError::DeviceTree)?;
    let mut machine = Machine::default();
    for entry in fdt.memory_reservations() {
        push(&mut machine.reserved, entry.address(), entry.size(), "reserved ranges")?;
    }
    let root = fdt.root();
    for node in root.children() {
        match node.name_without_address() {
            "memory" => ranges(&node, &mut machine.memory, "memory ranges")?,
            "reserved-memory" => {
                for child in node.children() {
                    ranges(&child, &mut machine.reserved, "reserved ranges")?;
                }
            }
            "chosen" => {
                machine.initrd = initrd(&node)?;
                machine.hand_off = integer(&node, abi::handoff::TREE_PROPERTY);
            }
            "cpus" => cpus(&node, &mut machine)?,
            "psci" if text(&node, "method") != Some("smc") => return Err(BootError::Node("PSCI with method smc")),
            _ => {}
        }
        devices(&node, &mut machine, 0)?;
    }
    if root.child("psci").is_none() {
        return Err(BootError::Node("PSCI node"));
    }
    machine.uart = stdout(&fdt).or(machine.uart);
    check(&mut machine)?;
    Ok(machine)
}

fn check(machine: &mut Machine) -> Result<(), BootError> {
    machine.memory.sort_by_key(|range| range.start);
    if machine.memory.windows(2).any(|pair| pair[1].start < pair[0].end) {
        return Err(BootError::Overlap("two memory ranges of the device tree"));
    }
    for (missing, what) in [
        (machine.memory.is_empty(), "memory"),
        (machine.cpus.is_empty(), "CPUs"),
        (machine.distributor.is_empty() || machine.redistributors.is_empty(), "GICv3"),
    ] {
        if missing {
            return Err(BootError::Node(what));
        }
    }
    Ok(())
}

/// Interrupt controller and UARTs, wherever in the tree they are.
fn devices(node: &FdtNode<'_>, machine: &mut Machine, depth: u32) -> Result<(), BootError> {
    if compatible(node, "arm,gic-v3") {
        let mut all = ArrayVec::<Bytes, RANGES_MAX>::new();
        ranges(node, &mut all, "interrupt controller registers")?;
        let regions = integer(node, "#redistributor-regions").unwrap_or(1) as usize;
        machine.distributor = all.first().cloned().unwrap_or_default();
        machine.redistributors = all.into_iter().skip(1).take(regions).collect();
    } else if compatible(node, "arm,gic-v3-its") {
        ranges(node, &mut machine.its, "interrupt translation services")?;
    } else if compatible(node, "arm,pl011") && machine.uart.is_none() {
        machine.uart = first_range(node);
    }
    for child in node.children() {
        if depth == DEPTH_MAX {
            return Err(BootError::TooMany("levels of device tree nodes"));
        }
        devices(&child, machine, depth + 1)?;
    }
    Ok(())
}

fn stdout(fdt: &Fdt<'_>) -> Option<Bytes> {
    let chosen = fdt.root().child("chosen")?;
    let property = chosen.property("stdout-path")?;
    let path = property.value_as::<&str>().ok()?.split(':').next()?;
    let node = fdt.find_node(path)?;
    compatible(&node, "arm,pl011").then(|| first_range(&node)).flatten()
}

fn cpus(node: &FdtNode<'_>, machine: &mut Machine) -> Result<(), BootError> {
    for cpu in node.children().filter(|child| child.name_without_address() == "cpu") {
        let reg = cpu.property("reg").ok_or(BootError::Node("reg of a CPU"))?;
        let affinity = big_endian(reg.value()).ok_or(BootError::Node("reg of a CPU"))?;
        machine.cpus.try_push(affinity).map_err(|_| BootError::TooMany("CPUs"))?;
    }
    Ok(())
}

fn initrd(chosen: &FdtNode<'_>) -> Result<Option<Bytes>, BootError> {
    match (integer(chosen, "linux,initrd-start"), integer(chosen, "linux,initrd-end")) {
        (Some(start), Some(end)) if start < end => Ok(Some(start..end)),
        (None, None) => Ok(None),
        _ => Err(BootError::Node("initrd range in /chosen")),
    }
}

fn ranges(node: &FdtNode<'_>, into: &mut ArrayVec<Bytes, RANGES_MAX>, what: &'static str) -> Result<(), BootError> {
    let Some(list) = node.reg().map_err(|_| BootError::Node(what))? else { return Ok(()) };
    for reg in list {
        let address = reg.address::<u64>().map_err(|_| BootError::Node(what))?;
        let size = reg.size::<u64>().map_err(|_| BootError::Node(what))?;
        push(into, address, size, what)?;
    }
    Ok(())
}

fn first_range(node: &FdtNode<'_>) -> Option<Bytes> {
    let reg = node.reg().ok()??.next()?;
    let (address, size) = (reg.address::<u64>().ok()?, reg.size::<u64>().ok()?);
    Some(address..address.checked_add(size)?)
}

fn push(into: &mut ArrayVec<Bytes, RANGES_MAX>, address: u64, size: u64, what: &'static str) -> Result<(), BootError> {
    let end = address.checked_add(size).ok_or(BootError::Node(what))?;
    if size == 0 {
        return Ok(());
    }
    into.try_push(address..end).map_err(|_| BootError::TooMany(what))
}

fn compatible(node: &FdtNode<'_>, name: &str) -> bool {
    node.compatible().is_some_and(|mut list| list.any(|entry| entry == name))
}

fn text<'a>(node: &FdtNode<'a>, name: &str) -> Option<&'a str> {
    node.property(name)?.value_as::<&'a str>().ok()
}

fn integer(node: &FdtNode<'_>, name: &str) -> Option<u64> {
    big_endian(node.property(name)?.value())
}

/// A property of one or two cells.
fn big_endian(bytes: &[u8]) -> Option<u64> {
    match bytes.len() {
        4 => Some(u32::from_be_bytes(bytes.try_into().ok()?).into()),
        8 => Some(u64::from_be_bytes(bytes.try_into().ok()?)),
        _ => None,
    }
}
