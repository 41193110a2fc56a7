//! The tests and how they are run.

use crate::world::{Dialect, World};
use crate::{arch, functional, mailbox};
use alloc::string::String;
use payloads::mailbox::command;
use payloads::say;

/// Where a test makes sense.
#[allow(dead_code)] // Each architecture has its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// In all dialects.
    Both,
    /// In realms only.
    Realm,
    /// In pKVM guests only.
    Pkvm,
    /// In TDX guests only.
    Tdx,
}

/// A test: its name, where it applies, and the function, which answers why it failed.
pub type Test = (&'static str, For, fn(&World) -> Result<(), String>);

/// Runs the tests that `name` selects.
pub fn run(world: &World, name: &str) {
    let lists =
        [("functional", functional::TESTS), ("functional", arch::FUNCTIONAL), ("attacks", arch::attacks::TESTS)];
    let applies = |test: &&Test| match test.1 {
        For::Both => true,
        For::Realm => world.dialect == Dialect::Realm,
        For::Pkvm => world.dialect == Dialect::Pkvm,
        For::Tdx => world.dialect == Dialect::Tdx,
    };
    let (mut passed, mut failed) = (0, 0);
    for (list, tests) in lists {
        let wanted = |test: &&Test| name == list || name == "all" || name == test.0;
        for (test, _, function) in tests.iter().filter(wanted).filter(applies) {
            let verdict = function(world).and_then(|()| audit(world));
            match verdict {
                Ok(()) => {
                    say!("guest: pass {test}");
                    passed += 1;
                }
                Err(reason) => {
                    say!("guest: FAIL {test}: {reason}");
                    failed += 1;
                }
            }
        }
    }
    if passed + failed == 0 {
        say!("guest: FAIL {name}: no such test in this dialect");
    }
    say!("guest: done, {passed} passed, {failed} failed");
}

/// After each test the host has Postern check its books.
fn audit(world: &World) -> Result<(), String> {
    match mailbox::ask(world, command::AUDIT, 0, 0) {
        0 => Ok(()),
        violations => Err(alloc::format!("audit finds {violations:#x} violations")),
    }
}

/// `Err` with the two values unless they are equal.
#[macro_export]
macro_rules! expect {
    ($what:expr, $found:expr, $wanted:expr) => {{
        let (found, wanted) = ($found, $wanted);
        if found != wanted {
            return Err(alloc::format!("{}: {:#x} instead of {:#x}", $what, found, wanted));
        }
    }};
}

/// `Err` unless the condition holds.
#[macro_export]
macro_rules! require {
    ($condition:expr, $($why:tt)*) => {
        if !$condition {
            return Err(alloc::format!($($why)*));
        }
    };
}
