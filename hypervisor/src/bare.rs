//! Entry, heap and panic handler on a bare machine.
#![allow(unsafe_code)] // Boot hands out memory that has no owner yet.

use arch::{BootInfo, machine};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::AtomicU64;
use guestmem::Pfn;
use hypervisor::boot::{self, HostEntry, Plan};
use hypervisor::phases::Phases;
use hypervisor::vm::Vms;
use hypervisor::{Postern, crash, log as ring, settings};
use linked_list_allocator::Heap;
use loader::BootError;
use spin::{Mutex, Once};

/// The heap of boot; closed before the host runs.
struct BootHeap(Mutex<Heap>);

#[global_allocator]
static HEAP: BootHeap = BootHeap(Mutex::new(Heap::empty()));

// SAFETY: the allocator behind the lock keeps the contract; an empty heap answers null.
unsafe impl GlobalAlloc for BootHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().allocate_first_fit(layout).map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the caller got `pointer` from `alloc` with this layout.
            unsafe { self.0.lock().deallocate(pointer, layout) }
        }
    }
}

static POSTERN: Once<Postern> = Once::new();
static VMS: Vms = Vms::new();

/// Called by `arch` on the boot CPU with the MMU on.
#[unsafe(no_mangle)]
fn postern_main(info: BootInfo) -> ! {
    ring::init();
    let mut phases = Phases::new(&info);
    phases.mark("early boot", machine::now());
    boot::use_record(&info);
    log::info!("Postern {} on {} CPUs", env!("CARGO_PKG_VERSION"), info.machine.cpus.len());
    match start(&info, &mut phases) {
        Ok(host) => {
            phases.mark("entry", machine::now());
            log::info!("boot took {}", phases.shown(machine::frequency()));
            log::info!("entering the host at {:#x}, description of the machine at {:#x}", host.entry, host.description);
            arch::console::leave_screen();
            machine::run_host(host.entry, host.description)
        }
        Err(error) => {
            arch::console::write_line(format_args!("postern: cannot boot: {error}"));
            machine::power_off()
        }
    }
}

fn start(info: &BootInfo, phases: &mut Phases) -> Result<HostEntry, BootError> {
    let plan = boot::plan(info)?;
    // SAFETY: all of `info.free` is RAM that nothing uses yet.
    unsafe { machine::zero(&plan.summaries) };
    let count = ((plan.summaries.end - plan.summaries.start) / 8) as usize;
    // SAFETY: zeroed just now, aligned to a frame, used for nothing else from here on.
    let summaries = unsafe { core::slice::from_raw_parts(plan.summaries.start as *const AtomicU64, count) };
    // SAFETY: `arch` has mapped all RAM of the device tree write-back at its physical address.
    let machine_handle = unsafe { machine::Machine::new() };
    #[cfg_attr(not(feature = "crash-test"), expect(unused_mut))]
    let mut postern = boot::build(machine_handle, info, &plan, summaries, &VMS)?;
    phases.mark("frame database", machine::now());
    boot::self_check(&postern)?;
    phases.mark("self check", machine::now());
    let bundle = info.machine.initrd.as_ref().ok_or(BootError::NoBundle)?;
    // SAFETY: the initrd lies in RAM, apart from all else (`layout::taken`), and no host runs yet.
    let archive = unsafe { machine::bytes(bundle) };
    let config = loader::cpio::find(archive, abi::bundle::CONFIG)?.map_or(&[][..], |file| file.data);
    boot::use_log_level(info, config);
    #[cfg(feature = "crash-test")]
    {
        postern.crash = hypervisor::crash_test::Crash::from_settings(config);
    }
    if settings::get(config, abi::bundle::WIPE_OPTION) == Some("yes") {
        let start = machine::now();
        // SAFETY: RAM that neither boot loader nor Postern has put anything into, and no host runs yet.
        let bytes = boot::wipe(info, &mut |range| unsafe { machine::zero(range) })?;
        let milliseconds = (machine::now() - start) * 1000 / machine::frequency();
        log::info!("{} MiB wiped in {milliseconds} ms", bytes >> 20);
        phases.mark("wiping", machine::now());
    }
    let mut copied = 0;
    let host = with_heap(&plan, || {
        boot::load_host(info, archive, &mut |from, to| {
            copied += from.len();
            // SAFETY: `load_host` puts things only where `layout::place` has found free RAM.
            unsafe { machine::copy(from, to) }
        })
    })?;
    phases.mark("host load", machine::now());
    log::info!("{} KiB of {} KiB copied: the host's kernel and its description", copied >> 10, archive.len() >> 10);
    let heap = Pfn::from_addr(plan.heap.start)..Pfn::from_addr(plan.heap.end);
    postern.core.add_pool(heap).map_err(|_| BootError::Memory("the pool"))?;
    let stats = postern.core.stats();
    log::info!("{} KiB set aside, {} of it free in the pool", stats.postern_frames * 4, stats.pool_free * 4);
    arch::set_kernel(POSTERN.call_once(|| postern));
    Ok(host)
}

/// Opens the heap for `work`, which returns nothing that lives in it, and closes it for good.
fn with_heap<R>(plan: &Plan, work: impl FnOnce() -> R) -> R {
    let size = (plan.heap.end - plan.heap.start) as usize;
    // SAFETY: RAM of Postern's that nothing else uses until the heap is closed.
    unsafe { HEAP.0.lock().init(plan.heap.start as *mut u8, size) };
    let result = work();
    *HEAP.0.lock() = Heap::empty();
    result
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    crash::crash(format_args!("{info}"))
}
