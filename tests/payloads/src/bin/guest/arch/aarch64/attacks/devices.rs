//! Emulated devices: the interrupt controller in Postern, the rest in the host.

use crate::require;
use crate::world::World;
use alloc::format;
use alloc::string::String;
use payloads::exception::{try_read, try_read32, try_write, try_write32};
use payloads::mailbox::{BASE, RESULT};
use payloads::{attempt, cpu, gic, percpu, timer};

/// Pseudo-random numbers, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16
    }
}

fn timer_still_works() -> Result<(), String> {
    let before = percpu::this().counted(timer::INTID);
    timer::fire_at(timer::now());
    let end = timer::now() + timer::ticks(1000);
    while percpu::this().counted(timer::INTID) == before {
        require!(timer::now() < end, "the timer interrupt does not come any more");
    }
    Ok(())
}

/// Rubbish in every register of distributor and redistributors, then a new start.
pub fn gic_garbage(_: &World) -> Result<(), String> {
    let mut random = Random(42);
    let (distributor, redistributor) = (gic::distributor(), gic::redistributor());
    cpu::mask_interrupts();
    for _ in 0..4000 {
        let (base, size) = if random.next() & 1 == 0 { (distributor, 0x1_0000) } else { (redistributor, 0x2_0000) };
        let address = base + (random.next() % size);
        let value = random.next() << 32 | random.next();
        // Unaligned device accesses abort in stage 1: align to the size.
        let _ = match random.next() % 4 {
            0 => try_write32(address & !3, value as u32),
            1 => try_write(address & !7, value),
            2 => try_read32(address & !3).map(drop),
            _ => try_read(address & !7).map(drop),
        };
    }
    // All interrupts off and inactive, then the ordinary set-up.
    for word in 0..4 {
        for (register, base) in [(0x180, distributor), (0x380, distributor)] {
            let _ = try_write32(base + register + word * 4, u32::MAX);
        }
    }
    for register in [0x180, 0x280, 0x380] {
        let _ = try_write32(redistributor + gic::gicr::SGI_FRAME + register, u32::MAX);
    }
    gic::init(distributor, redistributor - percpu::index() as u64 * gic::gicr::STRIDE);
    gic::init_cpu();
    while gic::acknowledge_and_end() {}
    cpu::unmask_interrupts();
    timer_still_works()
}

pub fn gic_sysregs(_: &World) -> Result<(), String> {
    cpu::mask_interrupts();
    macro_rules! poke {
        ($($register:literal),+) => {
            $(for value in [0u64, u64::MAX, 0x5555] {
                let _ = attempt!(concat!("msr ", $register, ", {v}"); v = in(reg) value);
                let _ = attempt!(concat!("mrs {v}, ", $register); v = out(reg) _);
            })+
        };
    }
    poke!(
        "icc_sre_el1",
        "icc_igrpen0_el1",
        "icc_ap0r0_el1",
        "icc_ap1r0_el1",
        "icc_bpr0_el1",
        "icc_ctlr_el1",
        "icc_pmr_el1"
    );
    for value in [0u64, 1023, u64::MAX] {
        let _ = attempt!("msr icc_dir_el1, {v}"; v = in(reg) value);
        let _ = attempt!("msr icc_eoir0_el1, {v}"; v = in(reg) value);
        let _ = attempt!("msr icc_eoir1_el1, {v}"; v = in(reg) value);
        let _ = attempt!("msr icc_sgi0r_el1, {v}"; v = in(reg) value);
        let _ = attempt!("msr icc_asgi1r_el1, {v}"; v = in(reg) value);
    }
    let _ = attempt!("msr icc_ap1r0_el1, {v}"; v = in(reg) 0u64);
    let _ = attempt!("msr icc_ap0r0_el1, {v}"; v = in(reg) 0u64);
    gic::init_cpu();
    while gic::acknowledge_and_end() {}
    cpu::unmask_interrupts();
    timer_still_works()
}

/// SGIs to everybody and nobody.
pub fn sgi_flood(_: &World) -> Result<(), String> {
    let mut random = Random(7);
    for _ in 0..10_000 {
        gic::send_raw_sgi(random.next() << 24 ^ random.next());
    }
    timer_still_works()
}

/// Accesses that cannot be decoded from the syndrome: an abort for the guest, never a guess.
pub fn odd_instructions(world: &World) -> Result<(), String> {
    let address = BASE + world.alias + RESULT;
    let pair = attempt!("ldp {a}, {b}, [{p}]"; a = out(reg) _, b = out(reg) _, p = in(reg) address & !15);
    require!(pair.is_err(), "LDP from a device is carried out");
    let writeback = attempt!("ldr {a}, [{p}], #8"; a = out(reg) _, p = inout(reg) address => _);
    require!(writeback.is_err(), "a load with write-back from a device is carried out");
    let store = attempt!("stp {a}, {a}, [{p}]"; a = in(reg) 1u64, p = in(reg) address & !15);
    require!(store.is_err(), "STP to a device is carried out");
    // Exclusives, atomics and cache maintenance may be refused or ignored.
    let _ = attempt!("ldxr {a}, [{p}]", "clrex"; a = out(reg) _, p = in(reg) address);
    let _ = attempt!("dc ivac, {p}"; p = in(reg) address);
    let _ = attempt!("dc civac, {p}"; p = in(reg) address);
    let _ = attempt!("dc zva, {p}"; p = in(reg) address);
    Ok(())
}

/// All sizes and signs, in and across registers.
pub fn odd_sizes(world: &World) -> Result<(), String> {
    for base in [BASE + world.alias, gic::distributor(), gic::redistributor()] {
        for offset in 0..16u64 {
            let p = base + offset;
            let _ = attempt!("ldrb {a:w}, [{p}]"; a = out(reg) _, p = in(reg) p);
            let _ = attempt!("ldrsb {a}, [{p}]"; a = out(reg) _, p = in(reg) p);
            let _ = attempt!("ldrh {a:w}, [{p}]"; a = out(reg) _, p = in(reg) p);
            let _ = attempt!("ldrsh {a:w}, [{p}]"; a = out(reg) _, p = in(reg) p);
            let _ = attempt!("ldrsw {a}, [{p}]"; a = out(reg) _, p = in(reg) p);
            let _ = attempt!("strb wzr, [{p}]"; p = in(reg) p);
            let _ = attempt!("strh wzr, [{p}]"; p = in(reg) p);
        }
    }
    gic::init_distributor();
    let found = try_read(BASE + world.alias + 0xff8).map_err(|abort| format!("an unknown register gives {abort}"))?;
    require!(found == 0, "an unknown register reads {found:#x}");
    timer_still_works()
}
