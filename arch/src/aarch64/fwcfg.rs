//! QEMU's firmware configuration device (QEMU `docs/specs/fw_cfg.rst`): its DMA interface reads and writes any physical
//! memory for whoever writes to it, past stage 2. The host gets zeroes there, which says that no such device is there.

use abi::FRAME_SIZE;
use core::sync::atomic::{AtomicU64, Ordering};
use dtoolkit::Node;
use dtoolkit::fdt::Fdt;
use loader::Bytes;

/// The frame of its registers; 0 for none.
static FRAME: AtomicU64 = AtomicU64::new(0);

/// Looks for the device in the tree, where QEMU has it at the root.
pub fn find(tree: &[u8]) {
    let Ok(fdt) = Fdt::new(tree) else { return };
    for node in fdt.root().children() {
        if node.compatible().is_some_and(|mut names| names.any(|name| name == "qemu,fw-cfg-mmio"))
            && let Ok(Some(mut registers)) = node.reg()
            && let Some(address) = registers.next().and_then(|register| register.address::<u64>().ok())
        {
            FRAME.store(address & !(FRAME_SIZE - 1), Ordering::Relaxed);
        }
    }
}

/// What the host's stage 2 must not have.
pub fn hidden_frame() -> Option<Bytes> {
    let at = FRAME.load(Ordering::Relaxed);
    (at != 0).then_some(at..at + FRAME_SIZE)
}

/// What the host reads at `address`; `None` when that is not in the device.
pub fn host_access(address: u64) -> Option<u64> {
    hidden_frame()?.contains(&address).then_some(0)
}
