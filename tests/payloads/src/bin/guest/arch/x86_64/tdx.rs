//! The TDX ABI, with the answers that Linux needs.

use crate::mailbox;
use crate::world::{World, first_nonzero, read, write};
use crate::{expect, require};
use abi::host::frame;
use abi::tdx::{self, field, leaf, register::*, report as layout, status, vmcall};
use abi::{BLOCK_SIZE, FRAME_SIZE};
use alloc::format;
use alloc::string::String;
use payloads::mailbox::{BASE, RESULT};
use payloads::{apic, attempt, cpu, exception, pc, percpu, tdcall, timer};

fn status(what: &'static str) -> impl Fn(i64) -> String {
    move |code| format!("{what} answers {code:#x}")
}

pub fn services(world: &World) -> Result<(), String> {
    let info = tdcall::call(leaf::VP_INFO, 0, 0, 0, 0);
    expect!("VP.INFO", info[RAX], 0);
    require!((36..=52).contains(&info[RCX]), "the address width is {}", info[RCX]);
    expect!("ATTRIBUTES", info[RDX], tdx::ATTRIBUTES);
    expect!("vCPUs", info[R8] & 0xffff_ffff, world.machine.cpus.len() as u64);
    expect!("the vCPU's index", info[R9], percpu::index() as u64);
    let mut input = payloads::registers::pattern(11);
    (input[RAX], input[RCX], input[R10]) = (leaf::VP_VMCALL, 0xfc00, 0);
    (input[R11], input[R12]) = (vmcall::GET_INFO, 0);
    let answer = &payloads::registers::around_tdcall(&input)[R10..R15];
    require!(answer == [0; 5], "GetTdVmCallInfo answers {answer:x?}");
    expect!("no sub-function", tdcall::vmcall(0x77, [0; 4])[0], vmcall::SUBFUNC_UNSUPPORTED);
    Ok(())
}

fn read_field(id: u64) -> (u64, u64) {
    let answer = tdcall::call(leaf::VM_RD, 0, id, 0, 0);
    (answer[RAX], answer[R8])
}

pub fn metadata(_: &World) -> Result<(), String> {
    for (id, value) in [(field::ATTRIBUTES, tdx::ATTRIBUTES), (field::SERVTD_NUM, 0), (field::NUM_L2_VMS, 0)] {
        let (code, found) = read_field(id);
        expect!(format!("VM.RD of {id:#x}"), code, 0);
        expect!(format!("field {id:#x}"), found, value);
    }
    let (code, value) = read_field(0x1110_0003_0000_ffff);
    expect!("VM.RD of no field", code & !0xffff_ffff, status::METADATA_FIELD_ID_INCORRECT);
    expect!("R8 of a failed VM.RD", value, 0);
    // Linux asks for no notifications, with an identifier that is slightly off.
    let answer = tdcall::call(leaf::VM_WR, 0, 0x9100_0000_0000_0010, 0, u64::MAX);
    expect!("VM.WR of NOTIFY_ENABLES", answer[RAX], 0);
    let answer = tdcall::call(leaf::VM_WR, 0, field::ATTRIBUTES, 0, u64::MAX);
    require!(answer[RAX] & status::ERROR != 0, "ATTRIBUTES can be written: {:#x}", answer[RAX]);
    Ok(())
}

/// What was private and has been shared comes back empty, once it is accepted; once more, and nothing happens.
pub fn accept(world: &World) -> Result<(), String> {
    let start = world.pages(BLOCK_SIZE / FRAME_SIZE, BLOCK_SIZE);
    write(start, 1);
    let shared = world.share(start, 1).map_err(status("share"))?;
    write(shared, 2);
    tdcall::map_gpa(start, FRAME_SIZE).map_err(|code| format!("MapGPA answers {code:#x}"))?;
    let block = tdcall::accept(start, 1);
    require!(block != 0, "ACCEPT of 2 MiB of which a page is mapped on its own");
    expect!("ACCEPT of a page", tdcall::accept(start, 0), 0);
    require!(first_nonzero(start).is_none(), "an accepted page is not zero");
    write(start + 8, 3);
    let again = tdcall::accept(start, 0);
    expect!("ACCEPT once more", again & !0xffff_ffff, status::PAGE_ALREADY_ACCEPTED);
    expect!("content after that", read(start + 8), 3);
    expect!("state", mailbox::state(world, start), frame::PRIVATE);
    Ok(())
}

/// A long range is done in steps, each of which says how far it came.
pub fn map_gpa_retry(world: &World) -> Result<(), String> {
    const PAGES: u64 = 300;
    let start = world.pages(PAGES, FRAME_SIZE);
    // There already, so that each has to be emptied: what never came costs nothing.
    (0..PAGES).for_each(|page| write(start + page * FRAME_SIZE, page + 1));
    let (mut at, end) = (start | tdcall::shared_bit(), (start | tdcall::shared_bit()) + PAGES * FRAME_SIZE);
    let mut steps = 0;
    while at < end {
        let (code, next) = tdcall::map_gpa_once(at, end - at);
        if code == vmcall::SUCCESS {
            break;
        }
        expect!("MapGPA", code, vmcall::RETRY);
        require!(next >= at && next < end, "MapGPA from {at:#x} goes on at {next:#x}");
        require!(next.is_multiple_of(FRAME_SIZE), "MapGPA goes on at {next:#x}");
        at = next;
        steps += 1;
        require!(steps < 10_000, "MapGPA does not get on");
    }
    require!(steps > 0, "300 pages in one step: was that bounded?");
    for page in [0, PAGES / 2, PAGES - 1] {
        expect!("content", read(start + page * FRAME_SIZE + world.alias), 0);
        expect!("state", mailbox::state(world, start + page * FRAME_SIZE), frame::SHARED);
    }
    world.unshare(start, PAGES).map_err(status("unshare"))
}

pub fn report(world: &World) -> Result<(), String> {
    let (report, data) = (world.page(), world.page());
    (0..8).for_each(|n| write(data + n * 8, 0x1111 * (n + 1)));
    let make = || tdcall::call(leaf::MR_REPORT, report, data, 0, 0)[RAX];
    expect!("MR.REPORT", make(), 0);
    expect!("type", read(report) & 0xff, u64::from(layout::TYPE));
    for n in 0..8 {
        expect!("REPORTDATA", read(report + layout::DATA as u64 + n * 8), 0x1111 * (n + 1));
    }
    expect!("ATTRIBUTES", read(report + layout::ATTRIBUTES as u64), tdx::ATTRIBUTES);
    require!(read(report + layout::MRTD as u64) != 0, "MRTD is zero");
    let register = |n: usize| read(report + (layout::RTMR + n * tdx::MEASUREMENT_SIZE) as u64);
    let before = [0, 1, 2, 3].map(register);
    expect!("RTMR.EXTEND", tdcall::call(leaf::MR_RTMR_EXTEND, data, 2, 0, 0)[RAX], 0);
    expect!("MR.REPORT", make(), 0);
    for (n, before) in before.into_iter().enumerate() {
        require!((register(n) != before) == (n == 2), "RTMR {n}: {:#x}, {before:#x} before", register(n));
    }
    Ok(())
}

/// A plain access to a device is an exception that tells all that its handler needs.
pub fn virtualization_exception(world: &World) -> Result<(), String> {
    let found = exception::try_read(BASE + world.alias + RESULT);
    let Err(abort) = found else { return Err(format!("a plain read gives {found:x?}")) };
    expect!("vector", abort.vector(), exception::vector::VIRTUALIZATION);
    expect!("reason", abort.error(), 48);
    expect!("address", abort.address, (BASE + RESULT) | tdcall::shared_bit());
    let answer = tdcall::call(leaf::VP_VEINFO_GET, 0, 0, 0, 0);
    expect!("VEINFO.GET without an exception", answer[RAX], status::NO_VALID_VE_INFO);
    Ok(())
}

/// TDVMCALL HLT with interrupts out, as Linux's idle loop has it, ends when the timer's interrupt is pending.
pub fn halt(_: &World) -> Result<(), String> {
    let area = percpu::this();
    for _ in 0..10 {
        cpu::mask_interrupts();
        let before = area.counted(timer::INTID);
        let deadline = timer::now() + timer::ticks(2);
        timer::fire_at(deadline);
        let mut spurious = 0;
        while timer::now() < deadline && spurious < 1000 {
            tdcall::vmcall(vmcall::HLT, [0; 4]);
            spurious += 1;
        }
        expect!("interrupts while they are out", area.counted(timer::INTID), before);
        cpu::unmask_interrupts();
        require!(spurious < 1000, "HLT returned {spurious} times with nothing pending");
        expect!("interrupts", area.counted(timer::INTID), before + 1);
    }
    Ok(())
}

pub fn ports(_: &World) -> Result<(), String> {
    let io = |size, write, port, value| tdcall::vmcall(vmcall::IO, [size, write, port, value]);
    const SCRATCH: u64 = pc::COM1 as u64 + 7;
    expect!("write", io(1, 1, SCRATCH, 0x5a)[0], 0);
    expect!("read", io(1, 0, SCRATCH, 0)[1], 0x5a);
    expect!("a plain read", u64::from(cpu::inb(pc::COM1 + 7)), 0x5a);
    for (size, ones) in [(1, 0xff), (2, 0xffff), (4, 0xffff_ffff)] {
        let [code, value, ..] = io(size, 0, 0x1234, 0);
        expect!("a read of nothing", code, 0);
        expect!("a port that is not there", value, ones);
    }
    expect!("a plain read of nothing", cpu::inl(0x1234), u32::MAX);
    Ok(())
}

/// What Linux looks for before it trusts clock and interrupts.
pub fn identity(_: &World) -> Result<(), String> {
    let features = cpu::cpuid(1, 0).ecx;
    for (bit, wanted) in [(5, false), (6, false), (21, true), (24, true), (31, true)] {
        require!((features >> bit & 1 == 1) == wanted, "bit {bit} of CPUID 1 ECX is {}", !wanted);
    }
    expect!("the local APIC's mode", cpu::rdmsr(apic::BASE) & apic::X2APIC, apic::X2APIC);
    expect!("identifier", apic::id(), percpu::index() as u64);
    let clock = cpu::cpuid(0x15, 0);
    require!(clock.eax != 0 && clock.ebx != 0 && clock.ecx != 0, "CPUID 0x15 does not tell the clock's frequency");
    // Read without an exception, early in Linux.
    attempt!("rdmsr"; in("ecx") 0x1a0u32, out("eax") _, out("edx") _,).map_err(|abort| format!("MISC_ENABLE: {abort}"))
}

/// A guest has IA32_SPEC_CTRL for itself, whatever Postern and the host have in it meanwhile.
pub fn speculation_control(_: &World) -> Result<(), String> {
    const SPEC_CTRL: u32 = 0x48;
    if cpu::cpuid(7, 0).edx & 1 << 26 == 0 {
        return Ok(());
    }
    for value in [0, 1, 0] {
        cpu::wrmsr(SPEC_CTRL, value);
        // To Postern and back, and to the host and back.
        cpu::cpuid(1, 0);
        expect!("after CPUID", cpu::rdmsr(SPEC_CTRL), value);
        cpu::inb(pc::COM1 + 7);
        expect!("after the host", cpu::rdmsr(SPEC_CTRL), value);
    }
    Ok(())
}
