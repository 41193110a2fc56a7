//! The log and the host's console. One test: there is one console.

use abi::host::*;
use arch::machine::{Serial, printed, set_cpu};
use core::sync::atomic::Ordering::Relaxed;
use tests::World;

fn write(world: &World, text: &[u8]) {
    for chunk in text.chunks(40) {
        let mut words = [0; 6];
        words[0] = chunk.len() as u64;
        for (word, bytes) in words[1..].iter_mut().zip(chunk.chunks(8)) {
            let mut eight = [0; 8];
            eight[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_le_bytes(eight);
        }
        assert_eq!(world.call(CONSOLE_WRITE, words).0, OK);
    }
}

fn log_from(world: &World, position: u64) -> (u64, String) {
    let out = world.page();
    let (status, [next, bytes, _]) = world.call(LOG_READ, [out, position]);
    assert_eq!(status, OK);
    let words: Vec<u8> = world.content(out).iter().flat_map(|word| word.load(Relaxed).to_le_bytes()).collect();
    (next, String::from_utf8_lossy(&words[..bytes as usize]).into_owned())
}

#[test]
fn console_and_log_show_what_is_written_and_nothing_a_terminal_obeys() {
    arch::console::install_early(Some(Serial));
    arch::console::enable_locking();
    hypervisor::log::init();
    let world = World::new();
    printed();

    write(&world, b"half a line");
    assert_eq!(printed(), "", "lines come out whole");
    write(&world, b", and the rest\nnext");
    assert_eq!(printed(), "half a line, and the rest\n");
    set_cpu(1);
    write(&world, b"another CPU's\n");
    set_cpu(0);
    write(&world, b"\n");
    assert_eq!(printed(), "another CPU's\nnext\n");
    write(&world, b"\x1b[2J\x07\xff\r\0\n");
    assert_eq!(printed(), "?[2J????\n");
    write(&world, &[b'x'; 400]);
    assert_eq!(printed(), format!("{0}\n{0}\n", "x".repeat(160)), "a line without end is cut");
    write(&world, b"\n");
    printed();
    for length in [41, 42, 1 << 32, u64::MAX] {
        assert_eq!(world.refusal(CONSOLE_WRITE, [length, 0, 0]), INVALID);
    }
    assert_eq!(world.call(CONSOLE_WRITE, [0, 1]).0, OK);
    set_cpu(1000);
    write(&world, b"a CPU that there is not\n");
    set_cpu(0);

    // Refusals go to the log with their reason, not to the console.
    printed();
    let (mut at, _) = log_from(&world, u64::MAX);
    world.refusal(VM_DESTROY, [77]);
    let (next, text) = log_from(&world, at);
    assert_eq!((text.as_str(), next - at), ("postern: host call VM_DESTROY: no such VM\n", text.len() as u64));
    assert_eq!(log_from(&world, next), (next, String::new()));
    assert_eq!(printed(), "");
    at = next;
    // The ring keeps the last 16 KiB; a reader that is late is told where what is left begins.
    for _ in 0..1000 {
        world.refusal(VM_DESTROY, [77]);
    }
    let (mut next, text) = log_from(&world, at);
    assert_eq!(text.len(), 4096);
    assert!(next > at + 4096, "the position has moved past what is lost");
    let mut total = text.len();
    loop {
        let (after, text) = log_from(&world, next);
        total += text.len();
        if after == next {
            break;
        }
        next = after;
    }
    assert_eq!(total, 16 << 10);
    // A crash prints its record at once and goes no further.
    let crash = std::panic::catch_unwind(|| hypervisor::crash::crash(format_args!("the reason")));
    assert!(crash.is_err(), "it comes back");
    let text = printed();
    assert!(text.starts_with(&format!("{}the reason\n", abi::bundle::CRASH_MARKER)), "{text}");
    assert!(std::panic::catch_unwind(|| hypervisor::crash::crash(format_args!("again"))).is_err());
    assert_eq!(printed(), "", "a crash within a crash says nothing");
}
