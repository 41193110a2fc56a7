//! A guest's platform on arm64, and the device tree that describes it (Devicetree Specification 0.4; the bindings are those of Linux).

use crate::launch::{Software, put};
use crate::memory::{Give, GuestMemory};
use crate::vm::{Shape, Vcpu, Vm};
use crate::{console, mailbox};
use abi::BLOCK_SIZE;
use abi::host::dialect;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use dtoolkit::ToPropertyValue;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use payloads::timer;

pub use payloads::pl011::{Effect, Pl011 as ConsoleDevice};

/// Where guest RAM starts.
pub const RAM_BASE: u64 = 0x4000_0000;
/// The interrupt distributor.
pub const GICD_BASE: u64 = 0x0800_0000;
/// The redistributors, 128 KiB for each vCPU.
pub const GICR_BASE: u64 = 0x080a_0000;
/// The PL011.
pub const UART_BASE: u64 = 0x0900_0000;
/// Bytes of the pool that a pKVM guest's devices bounce through, at the top of RAM.
pub const POOL_SIZE: u64 = 4 << 20;

/// Addresses outside of RAM, multiples of 2 MiB.
pub const OUTSIDE: [u64; 2] = [0, RAM_BASE - BLOCK_SIZE];
/// Postern knows of a guest that is off or wants a reset.
pub const OFF_IS_FINAL: bool = true;
/// The first vCPU starts the others.
pub const ALL_START: bool = false;
/// Dialects by name; the first is what a config without one means.
pub const DIALECTS: &[(&str, u64)] = &[("realm", dialect::REALM), ("pkvm", dialect::PKVM)];
/// Guests that measure: dialect, how memory comes, and the guest's test.
pub const BENCH: &[(u64, Give, &str)] = &[
    (dialect::PKVM, Give::Page, "bench"),
    (dialect::PKVM, Give::Pages, "bench-pages"),
    (dialect::REALM, Give::Page, "bench"),
    (dialect::REALM, Give::Blocks, "bench-blocks"),
];

/// INTID of the console's interrupt: SPI 1.
const CONSOLE_INTERRUPT: u32 = 33;
const INTC: u32 = 1;
const CLOCK: u32 = 2;
const POOL: u32 = 3;
const SPI: u32 = 0;
const PPI: u32 = 1;
const LEVEL_HIGH: u32 = 4;

/// There are no devices beside the console and the mailbox.
pub type Devices = ();

/// Where the first vCPU starts and what it is told.
pub struct Entry {
    /// Guest address of the first instruction.
    pub start: u64,
    /// The argument: the address of the device tree.
    pub argument: u64,
}

/// Puts kernel, initrd and device tree into guest memory, in this order, each on a 2 MiB boundary.
///
/// # Errors
/// A sentence for the user.
pub fn load(shape: &Shape, software: &Software<'_>, memory: &mut GuestMemory) -> Result<Entry, String> {
    let image = loader::image::parse(software.kernel, abi::bundle::GUEST_KERNEL).map_err(|error| format!("{error}"))?;
    let kernel = RAM_BASE + image.text_offset;
    let mut next = (kernel + image.size).next_multiple_of(BLOCK_SIZE);
    let initrd = software.initrd.filter(|bytes| !bytes.is_empty()).map(|bytes| {
        let start = next;
        next = (start + bytes.len() as u64).next_multiple_of(BLOCK_SIZE);
        (start, bytes)
    });
    let contents = Contents {
        arguments: software.arguments,
        initrd: initrd.map(|(start, bytes)| start..start + bytes.len() as u64),
        seed: if software.seed == 0 { timer::now() | 1 } else { software.seed },
    };
    let blob = build(shape, &contents);
    let pool = if shape.dialect == dialect::PKVM { POOL_SIZE } else { 0 };
    let needed = next + blob.len() as u64 + pool - RAM_BASE;
    if needed > shape.memory {
        let (needed, have) = (needed.div_ceil(1 << 20), shape.memory >> 20);
        return Err(format!("the guest's kernel and initrd need {needed} MiB, it has {have} MiB"));
    }
    put(memory, kernel, software.kernel)?;
    if let Some((start, bytes)) = initrd {
        put(memory, start, bytes)?;
    }
    put(memory, next, &blob)?;
    Ok(Entry { start: kernel, argument: next })
}

/// Serves an access to a device in memory: what a read gives. Where there is no device, reads give zero.
pub fn mmio(vm: &Vm, address: u64, write: Option<u64>) -> u64 {
    match address & !0xfff {
        UART_BASE => console::access(vm, address & 0xfff, write),
        mailbox::BASE => mailbox::access(vm, address & 0xfff, write),
        _ => 0,
    }
}

/// The console's interrupt output has changed.
pub fn console_interrupt(vm: &Vm, level: bool) {
    vm.interrupt(CONSOLE_INTERRUPT, level);
}

/// There are no ports on arm64.
pub fn port(_: &Vm, _: &Vcpu, _: u64, _: u64, _: Option<u64>) -> (u64, bool) {
    (0, false)
}

/// What the tree says beside the shape.
pub struct Contents<'a> {
    /// The kernel command line.
    pub arguments: &'a str,
    /// Where the initrd is.
    pub initrd: Option<Range<u64>>,
    /// Seed of the guest's random numbers.
    pub seed: u64,
}

/// Builds the blob.
pub fn build(shape: &Shape, contents: &Contents<'_>) -> Vec<u8> {
    let pkvm = shape.dialect == dialect::PKVM;
    let mut tree = DeviceTree::new();
    let root = &mut tree.root;
    set(root, "compatible", "linux,dummy-virt");
    set(root, "#address-cells", 2u32);
    set(root, "#size-cells", 2u32);
    set(root, "interrupt-parent", INTC);
    root.add_child(chosen(contents));
    root.add_child(memory(shape));
    root.add_child(cpus(shape));
    let mut psci = node("psci");
    set(&mut psci, "compatible", vec!["arm,psci-1.0", "arm,psci-0.2"]);
    set(&mut psci, "method", if pkvm { "hvc" } else { "smc" });
    root.add_child(psci);
    root.add_child(timer());
    root.add_child(interrupt_controller(shape));
    root.add_child(clock());
    let mut uart = uart();
    if pkvm {
        root.add_child(reserved_memory(shape));
        // The first device that names the pool makes the kernel share all of it.
        set(&mut uart, "memory-region", POOL);
    }
    root.add_child(uart);
    tree.to_dtb()
}

fn node(name: &str) -> DeviceTreeNode {
    DeviceTreeNode::new_unchecked(name)
}

fn set(node: &mut DeviceTreeNode, name: &str, value: impl ToPropertyValue) {
    node.add_property(DeviceTreeProperty::new_unchecked(name, value));
}

fn flag(node: &mut DeviceTreeNode, name: &str) {
    set(node, name, &[] as &[u8]);
}

fn cells(values: &[u64]) -> Vec<u32> {
    values.iter().flat_map(|value| [(value >> 32) as u32, *value as u32]).collect()
}

fn chosen(contents: &Contents<'_>) -> DeviceTreeNode {
    let mut chosen = node("chosen");
    set(&mut chosen, "bootargs", contents.arguments);
    set(&mut chosen, "stdout-path", "/pl011@9000000");
    if let Some(initrd) = &contents.initrd {
        set(&mut chosen, "linux,initrd-start", initrd.start);
        set(&mut chosen, "linux,initrd-end", initrd.end);
    }
    let mut state = contents.seed;
    let mut random = || {
        // xorshift64: enough to tell test guests apart; a guest that needs secrets must not trust its host for them.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    set(&mut chosen, "kaslr-seed", random());
    set(&mut chosen, "rng-seed", (0..8).flat_map(|_| random().to_le_bytes()).collect::<Vec<u8>>());
    chosen
}

fn memory(shape: &Shape) -> DeviceTreeNode {
    let mut memory = node("memory@40000000");
    set(&mut memory, "device_type", "memory");
    set(&mut memory, "reg", cells(&[RAM_BASE, shape.memory]));
    memory
}

fn cpus(shape: &Shape) -> DeviceTreeNode {
    let mut cpus = node("cpus");
    set(&mut cpus, "#address-cells", 1u32);
    set(&mut cpus, "#size-cells", 0u32);
    for index in 0..shape.vcpus as u32 {
        let mut cpu = node(&alloc::format!("cpu@{index:x}"));
        set(&mut cpu, "device_type", "cpu");
        set(&mut cpu, "compatible", "arm,armv8");
        set(&mut cpu, "reg", index);
        set(&mut cpu, "enable-method", "psci");
        cpus.add_child(cpu);
    }
    cpus
}

fn timer() -> DeviceTreeNode {
    let mut timer = node("timer");
    set(&mut timer, "compatible", "arm,armv8-timer");
    // Secure, physical, virtual, hypervisor: PPIs 13, 14, 11, 10.
    set(&mut timer, "interrupts", [13, 14, 11, 10].map(|ppi| [PPI, ppi, LEVEL_HIGH]).concat());
    flag(&mut timer, "always-on");
    timer
}

fn interrupt_controller(shape: &Shape) -> DeviceTreeNode {
    let mut intc = node("intc@8000000");
    set(&mut intc, "compatible", "arm,gic-v3");
    flag(&mut intc, "interrupt-controller");
    set(&mut intc, "#interrupt-cells", 3u32);
    set(&mut intc, "reg", cells(&[GICD_BASE, 0x1_0000, GICR_BASE, 0x2_0000 * shape.vcpus]));
    set(&mut intc, "phandle", INTC);
    intc
}

fn clock() -> DeviceTreeNode {
    let mut clock = node("apb-pclk");
    set(&mut clock, "compatible", "fixed-clock");
    set(&mut clock, "#clock-cells", 0u32);
    set(&mut clock, "clock-frequency", 24_000_000u32);
    set(&mut clock, "clock-output-names", "clk24mhz");
    set(&mut clock, "phandle", CLOCK);
    clock
}

fn uart() -> DeviceTreeNode {
    let mut uart = node("pl011@9000000");
    set(&mut uart, "compatible", vec!["arm,pl011", "arm,primecell"]);
    set(&mut uart, "reg", cells(&[UART_BASE, 0x1000]));
    set(&mut uart, "interrupts", [SPI, 1, LEVEL_HIGH]);
    set(&mut uart, "clocks", [CLOCK, CLOCK]);
    set(&mut uart, "clock-names", vec!["uartclk", "apb_pclk"]);
    uart
}

fn reserved_memory(shape: &Shape) -> DeviceTreeNode {
    let start = RAM_BASE + shape.memory - POOL_SIZE;
    let mut reserved = node("reserved-memory");
    set(&mut reserved, "#address-cells", 2u32);
    set(&mut reserved, "#size-cells", 2u32);
    flag(&mut reserved, "ranges");
    let mut pool = node(&alloc::format!("pool@{start:x}"));
    set(&mut pool, "compatible", "restricted-dma-pool");
    set(&mut pool, "reg", cells(&[start, POOL_SIZE]));
    set(&mut pool, "phandle", POOL);
    reserved.add_child(pool);
    reserved
}
