//! What is on the screen when the host begins to run, as digests: a test compares them with what Postern has said.

use crate::record::Hex;
use alloc::vec::Vec;
use loader::screen::Layout;
use payloads::{Boot, say};
use sha2::{Digest, Sha256};

/// Lines of the picture that are digested together: those of a line of Postern's text.
const TOGETHER: u32 = 13;
/// Postern says no more than so many lines of text.
const TEXT_LINES: u32 = 12;

/// Says what is on the screen, if there is one.
pub fn show(boot: &Boot) {
    let Some(screen) = &boot.machine.screen else {
        say!("host: no screen");
        return;
    };
    let Layout { width, height, stride, order, .. } = screen;
    say!("host: screen {width} x {height}, {stride} from line to line, {order:?}");
    for text in 0..TEXT_LINES.min(height / TOGETHER) {
        let mut digest = Sha256::new();
        for line in text * TOGETHER..(text + 1) * TOGETHER {
            let start = screen.memory.start + u64::from(line * stride) * 4;
            // The fourth byte of an element is nothing.
            // SAFETY: picture memory by what Postern says, all of whose lines are within it; the map reaches it.
            let read = |n| unsafe { (start as *const u32).add(n as usize).read_volatile() } & 0xff_ffff;
            digest.update((0..*width).map(read).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
        }
        say!("host: screen line {text}: {}", Hex(&digest.finalize()));
    }
}
