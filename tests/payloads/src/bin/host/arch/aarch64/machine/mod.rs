//! Calls that are no host calls, PSCI, and the interrupt controller as a way to write memory.

mod sve;

use crate::attacks::scene::Scene;
use crate::attacks::{Attack, all_same, attack};
use crate::platform::RAM_BASE;
use abi::host::{self, NOT_SUPPORTED, OK, VmConfig};
use abi::{pkvm, psci, rsi, smccc as ids};
use alloc::format;
use alloc::string::String;
use payloads::exception::{try_read, try_read32, try_write, try_write32};
use payloads::{attempt, gic, hostcall, percpu, secondary_entry, smccc};

pub const ATTACKS: &[Attack] = &[
    attack("unknown-host-call", "call numbers that do not exist", &[NOT_SUPPORTED], unknown_call),
    attack("host-call-high-half", "call numbers with rubbish above bit 31", &[NOT_SUPPORTED], high_half),
    attack("host-call-by-smc", "host calls by SMC", &[NOT_SUPPORTED], by_smc),
    attack("hvc-immediate", "HVC with another immediate", &[NOT_SUPPORTED], hvc_immediate),
    attack("smc-immediate", "SMC with another immediate", &[NOT_SUPPORTED], smc_immediate),
    attack("unknown-smc", "firmware calls that do not exist", &[NOT_SUPPORTED], unknown_smc),
    attack("guest-calls-from-host", "the guests' ABIs offered to the host", &[NOT_SUPPORTED], guest_calls),
    attack("cpu-on-entry-private", "a CPU started in a guest's private page", &[psci::INVALID_ADDRESS], entry_private),
    attack("cpu-on-entry-postern", "a CPU started in Postern", &[psci::INVALID_ADDRESS], entry_postern),
    attack("cpu-on-entry-nowhere", "a CPU started where there is no memory", &[psci::INVALID_ADDRESS], entry_nowhere),
    attack("cpu-on-bad-target", "CPUs that do not exist", &[psci::INVALID_PARAMETERS], bad_target),
    attack("cpu-on-running", "a CPU that runs", &[psci::ALREADY_ON], already_on),
    attack("cpu-suspend-private", "a CPU resumed in a guest's private page", &[OK], suspend_private),
    attack("system-suspend-private", "the machine resumed in Postern", &[OK], system_suspend),
    attack("el2-registers", "registers of the hypervisor", &[OK], el2_registers),
    attack("its-reach", "the interrupt translation service, which writes memory", &[OK], its),
    attack("lpi-tables", "LPI tables of the redistributors, which are memory", &[OK], lpi_tables),
    attack("sve-after-exit", "the host's SVE registers after a guest has used FP", &[OK], sve::kept),
    attack("fw-cfg-dma", "the emulator's own DMA, which knows no stage 2", &[OK], fw_cfg),
    attack("gic-garbage", "odd accesses to what Postern filters of the GIC", &[OK], gic_garbage),
];

/// Interrupt controllers that no guest can have: unaligned, in RAM, one over the other, or beyond every address.
pub const BAD_CONTROLLERS: &[fn(&mut VmConfig)] = &[
    |config| config.gicd_base += 1,
    |config| config.gicd_base = RAM_BASE,
    |config| config.gicr_base = RAM_BASE,
    |config| config.gicr_base = config.gicd_base,
    |config| config.gicd_base = u64::MAX - 0xfff,
    |config| config.gicr_base = 1 << 52,
    |config| config.gicr_base += 0x800,
];

/// Attacks that end the machine: none, as there is nothing here that Postern could not refuse.
pub const LAST: &[Attack] = &[];

fn unknown_call(_: &mut Scene) -> Result<i64, String> {
    let numbers = (host::END..host::END + 64).chain([host::BASE - 1, 0, host::BASE & 0xffff, 0x8600_5000, 0xc700_5000]);
    all_same(numbers.map(|number| hostcall::raw(number, [1; 6]).status))
}

fn high_half(_: &mut Scene) -> Result<i64, String> {
    all_same([32, 33, 48, 63].map(|bit| hostcall::raw(host::VERSION | 1 << bit, [0; 6]).status))
}

fn by_smc(scene: &mut Scene) -> Result<i64, String> {
    let frame = scene.private;
    all_same((host::BASE..host::END).map(|number| smccc::smc([number, frame, frame, 1, 1, 1, 1])[0] as i64))
}

fn hvc_immediate(_: &mut Scene) -> Result<i64, String> {
    let mut x0 = host::VERSION;
    let found = attempt!(
        "hvc #1";
        inout("x0") x0, out("x1") _, out("x2") _, out("x3") _, out("x4") _, out("x5") _, out("x6") _, out("x7") _,
        out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _,
        out("x16") _, out("x17") _,
    );
    Ok(if found.is_err() { NOT_SUPPORTED } else { x0 as i64 })
}

fn smc_immediate(_: &mut Scene) -> Result<i64, String> {
    Ok(smccc::smc_immediate(smccc::call(psci::VERSION, 0, 0, 0))[0] as i64)
}

fn unknown_smc(scene: &mut Scene) -> Result<i64, String> {
    // FF-A, TRNG, vendor services, and PSCI functions that do not exist, with addresses that are not the host's.
    let functions =
        [0x8400_0060, 0x8400_0066, 0x8400_0072, 0xc400_0066, 0x8400_0077, 0x8200_ff01, 0x8300_0000, 0xc300_0001];
    let more = [0x8700_0000, 0xc200_0020, 0x8400_00f0, 0xbf00_ff01, 0xffff_ffff, u64::MAX];
    let answer = |function| smccc::smc([function, scene.private, scene.postern, 1, 1, 1, 1])[0];
    // A 32-bit answer may come without its upper half.
    all_same(functions.into_iter().chain(more).map(|function| i64::from(answer(function) as i32)))
}

fn guest_calls(scene: &mut Scene) -> Result<i64, String> {
    let uid = smccc::hvc(smccc::call(ids::VENDOR_UID, 0, 0, 0));
    if uid[0] as u32 == pkvm::KVM_UID[0] as u32 {
        return Err(String::from("the host is told that it is a KVM guest"));
    }
    let functions =
        [pkvm::MEM_SHARE, pkvm::MEM_UNSHARE, pkvm::HYP_MEMINFO, rsi::VERSION, rsi::REALM_CONFIG, rsi::IPA_STATE_SET];
    let by_hvc = functions.map(|function| smccc::hvc(smccc::call(function, scene.private, 0, 0))[0] as i64);
    let by_smc = functions.map(|function| smccc::smc(smccc::call(function, scene.private, 0, 0))[0] as i64);
    all_same(by_hvc.into_iter().chain(by_smc))
}

/// `CPU_ON` of a CPU that is switched off for the purpose; without one, of a CPU that does not exist.
fn cpu_on_at(entries: &[u64]) -> Result<i64, String> {
    let target = crate::remote::park_one().unwrap_or(0xfe);
    let found =
        all_same(entries.iter().map(|entry| smccc::smc(smccc::call(psci::CPU_ON, target, *entry, 0))[0] as i64));
    crate::remote::unpark()?;
    if target == 0xfe { Ok(psci::INVALID_ADDRESS) } else { found }
}

fn entry_private(scene: &mut Scene) -> Result<i64, String> {
    cpu_on_at(&[scene.private, scene.private + 8, scene.meta])
}

fn entry_postern(scene: &mut Scene) -> Result<i64, String> {
    cpu_on_at(&[scene.postern, scene.postern + 0x40])
}

fn entry_nowhere(scene: &mut Scene) -> Result<i64, String> {
    cpu_on_at(&[scene.hole, 1 << 52, u64::MAX - 3])
}

fn bad_target(_: &mut Scene) -> Result<i64, String> {
    let targets = [0xfe, 0x1_0000, 1 << 31, 1 << 24, 1 << 40, u64::MAX];
    all_same(targets.map(|target| smccc::smc(smccc::call(psci::CPU_ON, target, secondary_entry(), 0))[0] as i64))
}

fn already_on(_: &mut Scene) -> Result<i64, String> {
    let cpus = 0..crate::remote::cpus();
    all_same(
        cpus.map(|cpu| smccc::smc(smccc::call(psci::CPU_ON, percpu::affinity(cpu), secondary_entry(), 0))[0] as i64),
    )
}

/// A suspend that powers down would come back at the entry given. It is refused, or it is just a wait.
fn suspend_private(scene: &mut Scene) -> Result<i64, String> {
    payloads::timer::fire_at(payloads::timer::now() + payloads::timer::ticks(5));
    let answer = smccc::smc(smccc::call(psci::CPU_SUSPEND, 1 << 30, scene.private, 0))[0] as i64;
    payloads::timer::stop();
    crate::remote::service_interrupts();
    if answer <= 0 { Ok(OK) } else { Err(format!("answers {answer}")) }
}

fn system_suspend(scene: &mut Scene) -> Result<i64, String> {
    for entry in [scene.postern, scene.private] {
        let answer = smccc::smc(smccc::call(psci::SYSTEM_SUSPEND, entry, 0, 0))[0] as i64;
        if answer >= 0 {
            return Err(format!("answers {answer}"));
        }
    }
    Ok(OK)
}

fn el2_registers(_: &mut Scene) -> Result<i64, String> {
    macro_rules! undefined {
        ($($register:literal),+) => {
            $(
                let read = attempt!(concat!("mrs {v}, ", $register); v = out(reg) _);
                let write = attempt!(concat!("msr ", $register, ", {v}"); v = in(reg) 0u64);
                if !read.is_err_and(|abort| abort.is_undefined()) || !write.is_err_and(|abort| abort.is_undefined()) {
                    return Err(format!("{} is accessible", $register));
                }
            )+
        };
    }
    undefined!(
        "hcr_el2",
        "vttbr_el2",
        "vtcr_el2",
        "vbar_el2",
        "sctlr_el2",
        "ttbr0_el2",
        "tcr_el2",
        "cptr_el2",
        "mdcr_el2"
    );
    let found = attempt!("tlbi vmalls12e1is";);
    if found.is_ok() {
        return Err(String::from("the host can invalidate stage 2"));
    }
    Ok(OK)
}

/// On QEMU's `virt` the ITS is 512 KiB above the distributor: absent, or out of reach.
fn its(scene: &mut Scene) -> Result<i64, String> {
    let its = scene.device + 0x8_0000;
    for offset in [0, 0x4, 0x8, 0x80, 0x88, 0x90, 0x100, 0x1_0000, 0x1_0040] {
        if let Ok(value) = try_read32(its + offset)
            && value != 0
        {
            return Err(format!("register {offset:#x} reads {value:#x}"));
        }
    }
    // Command queue and tables at private memory, then on.
    for (offset, value) in [(0x80, 1 << 63 | scene.private), (0x100, 1 << 63 | scene.private)] {
        let _ = try_write(its + offset, value);
        if try_read(its + offset).is_ok_and(|value| value != 0) {
            return Err(format!("register {offset:#x} takes an address"));
        }
    }
    let _ = try_write32(its, 1);
    Ok(OK)
}

/// PROPBASER and PENDBASER name memory that the GIC writes: they must not take effect, and LPIs must stay off.
fn lpi_tables(scene: &mut Scene) -> Result<i64, String> {
    let frame = gic::redistributor();
    for (offset, value) in [(gic::gicr::PROPBASER, scene.private | 15), (gic::gicr::PENDBASER, scene.private)] {
        let address = frame + offset;
        let taken = || try_read(address).is_ok_and(|found| found & 0x000f_ffff_ffff_f000 == scene.private);
        let _ = try_write(address, value);
        let whole = taken();
        let _ = try_write32(address, value as u32);
        let _ = try_write32(address + 4, (value >> 32) as u32);
        if whole || taken() {
            return Err(format!("register {offset:#x} takes a private frame"));
        }
    }
    let _ = try_write32(frame, 1);
    match try_read32(frame) {
        Ok(control) if control & 1 != 0 => Err(String::from("LPIs can be enabled")),
        _ => Ok(OK),
    }
}

/// QEMU's fw_cfg copies what it has to any address: its signature to a frame of the host's own, which shows that the device
/// is within reach (QEMU `docs/specs/fw_cfg.rst`).
fn fw_cfg(_: &mut Scene) -> Result<i64, String> {
    /// Registers on the `virt` machine, and in them the address of a request.
    const REGISTERS: u64 = 0x0902_0000;
    const DMA: u64 = REGISTERS + 16;
    /// Selects item 0, the signature, and reads it.
    const SELECT_AND_READ: u64 = 8 | 2;
    let frame = crate::frames::zeroed_frame().ok_or("the host is out of memory")?;
    let target = frame + 2048;
    // Big-endian: control, length, address.
    crate::frames::write(frame, (SELECT_AND_READ << 32 | 4).swap_bytes());
    crate::frames::write(frame + 8, target.swap_bytes());
    let _ = try_write32(DMA, ((frame >> 32) as u32).swap_bytes());
    let _ = try_write32(DMA + 4, (frame as u32).swap_bytes());
    let _ = try_write(DMA, frame.swap_bytes());
    let copied = crate::frames::read(target);
    let signature = try_read(DMA);
    crate::frames::free_frame(frame);
    match (copied, signature) {
        (0, Ok(0) | Err(_)) => Ok(OK),
        (copied, signature) => Err(format!("the device answers {signature:x?} and writes {copied:#x}")),
    }
}

fn gic_garbage(_: &mut Scene) -> Result<i64, String> {
    let frame = gic::redistributor();
    for offset in (0x60..0x90).chain(0xfe0..0xff0) {
        let p = frame + offset;
        let _ = attempt!("ldrb {a:w}, [{p}]"; a = out(reg) _, p = in(reg) p);
        let _ = attempt!("ldrh {a:w}, [{p}]"; a = out(reg) _, p = in(reg) p);
        let _ = attempt!("ldp {a}, {b}, [{p}]"; a = out(reg) _, b = out(reg) _, p = in(reg) p & !15);
        let _ = attempt!("stp {a}, {a}, [{p}]"; a = in(reg) 0u64, p = in(reg) p & !15);
        let _ = attempt!("ldr {a}, [{p}], #8"; a = out(reg) _, p = inout(reg) p & !7 => _);
        let _ = attempt!("ldxr {a}, [{p}]", "clrex"; a = out(reg) _, p = in(reg) p & !7);
    }
    gic::init_cpu();
    Ok(OK)
}
