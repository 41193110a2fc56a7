//! A VM's life: create, load, seal, run, exits, destroy, reclaim.

use abi::host::{self, frame, vm_state};
use abi::run::exit;
use arch::Kernel;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tests::{Guest, World};

#[test]
fn a_vm_lives_and_all_its_frames_come_back_wiped() {
    for dialect in World::ALL_DIALECTS {
        let world = World::new();
        let guest = Guest::sealed(&world, dialect, 2);
        world.check();
        let page = guest.donate(guest.ipa(1));
        let block = guest.donate_block(guest.ipa(512));
        assert!(guest.writes(guest.ipa(1), 0x5EC) && guest.writes(guest.ipa(600), 0x5EC));
        assert_eq!(guest.run(0), exit::WAIT);
        let [state, _, _, private, shared, ..] = guest.info();
        assert_eq!((state, private, shared), (vm_state::SEALED, 514, 0));
        world.check();
        guest.end();
        for address in [page, block + 88 * 4096, guest.first_page] {
            assert_eq!(world.frame(address), (frame::HOST, 0));
            assert_eq!(world.host_reads(address), Some(0), "{address:#x} was not wiped");
        }
        assert_eq!(world.refusal(host::VM_INFO, [guest.handle, page]), host::NO_SUCH);
        world.check_empty();
    }
}

/// A reset leaves memory as it is, so it is refused to the host until the last guest's frames are back and wiped.
#[test]
fn the_machine_is_idle_only_while_there_is_no_vm() {
    let world = World::new();
    let idle = || {
        let mut was = false;
        assert_eq!(world.postern.while_idle(&mut || was = true), was);
        was
    };
    assert!(idle());
    let handle = world.create(&World::config(host::dialect::REALM, 1), 8);
    assert!(!idle());
    world.ok(host::VM_DESTROY, [handle]);
    assert!(!idle(), "destroyed, but its frames are not back");
    world.finish(host::VM_RECLAIM, [handle]);
    assert!(idle());
}

#[test]
fn no_vm_begins_while_the_machine_is_reset() {
    let world = World::new();
    let created = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reset = world.postern.while_idle(&mut || {
            scope.spawn(|| {
                world.create(&World::config(host::dialect::REALM, 1), 8);
                created.store(true, Ordering::SeqCst);
            });
            std::thread::sleep(Duration::from_millis(100));
            assert!(!created.load(Ordering::SeqCst));
        });
        assert!(reset);
    });
    assert!(created.load(Ordering::SeqCst), "it only had to wait");
}
