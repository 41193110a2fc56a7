//! The user's terminal as the guest's console: raw while the guest runs, itself again afterwards.

use crate::machine::Keyboard;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{IsTerminal, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set when whoever read standard output has gone.
static GONE: AtomicBool = AtomicBool::new(false);

/// Prints a line on standard output, as `println!` does, but no longer once nobody reads it: `xtask demo | head -1` ends
/// quietly then.
macro_rules! say {
    ($($text:tt)*) => { $crate::terminal::say(format_args!($($text)*)) };
}

/// The function behind [`say!`].
pub fn say(text: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    if !nobody_reads() && writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        GONE.store(true, Ordering::Relaxed);
    }
}

/// Passes the guest's output on; whether anybody still reads it.
pub fn pass_on(bytes: &[u8]) -> bool {
    let mut out = std::io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        GONE.store(true, Ordering::Relaxed);
    }
    !nobody_reads()
}

/// Has somebody closed the other end of standard output?
pub fn nobody_reads() -> bool {
    GONE.load(Ordering::Relaxed)
}

/// Ctrl-], as in telnet and `virsh console`.
const LEAVE: u8 = 0x1d;

/// Raw mode of standard input, undone when dropped.
pub struct RawMode(Termios);

impl RawMode {
    /// Switches raw mode on when standard input is a terminal.
    pub fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() || !std::io::stdout().is_terminal() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        // Output stays cooked: the log lines on standard error need their carriage returns.
        raw.output_modes = before.output_modes;
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        let saved = before.clone();
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &saved);
            hook(info);
        }));
        eprintln!("(the keyboard is the guest's, Ctrl-C too; Ctrl-] ends the run)");
        Some(RawMode(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// Sends standard input to the guest from now on; Ctrl-] on a terminal sets `stop`.
pub fn forward_stdin(keyboard: Keyboard, raw: bool, stop: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(length @ 1..) = std::io::stdin().read(&mut buffer) {
            let typed = &buffer[..length];
            if raw && typed.contains(&LEAVE) {
                stop.store(true, Ordering::Relaxed);
                return;
            }
            keyboard.type_in(typed);
        }
    });
}

/// A flag that SIGINT, SIGTERM and SIGHUP set, so that everything is put back in order before the end.
pub fn stop_flag() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        // A second signal ends the program at once, should the first one not get through.
        let _ = signal_hook::flag::register_conditional_default(signal, Arc::clone(&flag));
        let _ = signal_hook::flag::register(signal, Arc::clone(&flag));
    }
    flag
}
