//! System registers and instructions that are not the guest's.

use crate::world::World;
use crate::{expect, require};
use alloc::format;
use alloc::string::String;
use payloads::{attempt, cpu, percpu, timer};

macro_rules! undefined {
    ($($register:literal),+) => {
        $(
            let found = attempt!(concat!("mrs {v}, ", $register); v = out(reg) _);
            require!(found.is_err_and(|abort| abort.is_undefined()), "{} can be read at EL1: {found:x?}", $register);
            let found = attempt!(concat!("msr ", $register, ", {v}"); v = in(reg) u64::MAX);
            require!(found.is_err_and(|abort| abort.is_undefined()), "{} can be written at EL1: {found:x?}", $register);
        )+
    };
}

pub fn el2_registers(_: &World) -> Result<(), String> {
    undefined!(
        "hcr_el2",
        "vttbr_el2",
        "vtcr_el2",
        "sctlr_el2",
        "vbar_el2",
        "cnthctl_el2",
        "cntvoff_el2",
        "ich_hcr_el2"
    );
    Ok(())
}

macro_rules! poke {
    ($($register:literal = $value:expr),+ $(,)?) => {
        $(
            let _ = attempt!(concat!("msr ", $register, ", {v}"); v = in(reg) $value);
        )+
    };
}

/// The PMU could time or count the hypervisor and the host: nothing that is written there may count.
pub fn pmu_registers(_: &World) -> Result<(), String> {
    poke!(
        "pmccfiltr_el0" = 1u64 << 27,
        "pmcntenset_el0" = u64::MAX,
        "pmuserenr_el0" = u64::MAX,
        "pmintenset_el1" = u64::MAX,
        "pmcr_el0" = 7u64,
        "pmovsset_el0" = u64::MAX,
        "pmswinc_el0" = u64::MAX,
        "pmselr_el0" = 31u64,
    );
    let mut first = 0u64;
    let mut second = 0u64;
    let one = attempt!("mrs {v}, pmccntr_el0"; v = inout(reg) first);
    timer::delay(1);
    let two = attempt!("mrs {v}, pmccntr_el0"; v = inout(reg) second);
    require!(one.is_err() || two.is_err() || first == second, "the cycle counter runs: {first} to {second}");
    Ok(())
}

pub fn debug_registers(_: &World) -> Result<(), String> {
    poke!(
        "mdscr_el1" = 1u64 << 15 | 1 << 13 | 1,
        "oslar_el1" = 1u64,
        "osdlr_el1" = 1u64,
        "dbgbvr0_el1" = 0x4000_0000u64,
        "dbgbcr0_el1" = 0x1e7u64,
        "dbgwvr0_el1" = 0x4000_0000u64,
        "dbgwcr0_el1" = 0x1fffu64,
        "dbgprcr_el1" = u64::MAX,
    );
    // And off again: what is not trapped must not stop the guest later.
    poke!("mdscr_el1" = 0u64, "dbgbcr0_el1" = 0u64, "dbgwcr0_el1" = 0u64, "osdlr_el1" = 0u64);
    Ok(())
}

/// The physical timer is not offered: programming it must not interrupt anyone forever.
pub fn physical_timer(_: &World) -> Result<(), String> {
    poke!("cntp_cval_el0" = 0u64, "cntp_ctl_el0" = 1u64, "cntp_tval_el0" = 0u64);
    timer::delay(1);
    poke!("cntp_ctl_el0" = 0u64, "cntkctl_el1" = 0u64);
    let before = percpu::this().counted(timer::INTID);
    timer::fire_at(timer::now());
    timer::delay(2);
    expect!("virtual timer interrupts", percpu::this().counted(timer::INTID), before + 1);
    Ok(())
}

/// Set/way maintenance reaches lines of everybody; whatever happens, it must lose nothing.
pub fn set_way(world: &World) -> Result<(), String> {
    let page = world.page();
    (0..512).for_each(|n| crate::world::write(page + n * 8, n ^ 0x77));
    for level in 0..4u64 {
        for set in 0..64u64 {
            let operand = level << 1 | set << 6;
            let _ = attempt!("dc isw, {v}"; v = in(reg) operand);
            let _ = attempt!("dc csw, {v}"; v = in(reg) operand);
            let _ = attempt!("dc cisw, {v}"; v = in(reg) operand);
        }
    }
    for n in 0..512 {
        expect!("content", crate::world::read(page + n * 8), n ^ 0x77);
    }
    Ok(())
}

pub fn invalidation_storm(_: &World) -> Result<(), String> {
    for _ in 0..2000 {
        attempt!("tlbi vmalle1is", "tlbi vmalle1", "ic ialluis", "dsb ish", "isb";)
            .map_err(|abort| format!("invalidation raises {abort}"))?;
    }
    // Stage-2 and EL2 invalidations are not for EL1.
    let found = attempt!("tlbi alle2";);
    require!(found.is_err_and(|abort| abort.is_undefined()), "TLBI ALLE2 gives {found:x?}");
    let found = attempt!("tlbi vmalls12e1is";);
    require!(found.is_err_and(|abort| abort.is_undefined()), "TLBI VMALLS12E1IS gives {found:x?}");
    Ok(())
}

pub fn wfi_storm(_: &World) -> Result<(), String> {
    for round in 0..500u64 {
        // Masked: an interrupt that comes before WFI still ends it.
        cpu::mask_interrupts();
        timer::fire_at(timer::now() + round);
        cpu::wait_for_interrupt();
        cpu::unmask_interrupts();
        attempt!("wfe"; ).map_err(|abort| format!("WFE raises {abort}"))?;
        attempt!("sevl", "wfe", "yield";).map_err(|abort| format!("WFE raises {abort}"))?;
    }
    timer::stop();
    Ok(())
}

/// SVE registers hold the host's vectors where they are longer than a guest's.
pub fn no_sve(_: &World) -> Result<(), String> {
    let (mut pfr0, mut zfr0) = (0u64, 0u64);
    attempt!("mrs {v}, id_aa64pfr0_el1"; v = inout(reg) pfr0).map_err(|abort| format!("{abort}"))?;
    attempt!("mrs {v}, s3_0_c0_c4_4"; v = inout(reg) zfr0).map_err(|abort| format!("{abort}"))?; // ID_AA64ZFR0_EL1
    expect!("SVE in ID_AA64PFR0_EL1", pfr0 >> 32 & 0xf, 0);
    expect!("ID_AA64ZFR0_EL1", zfr0, 0);
    // CPACR_EL1.ZEN and SMEN: no trap of the guest's own is in the way.
    poke!("cpacr_el1" = 3u64 << 20 | 3 << 16 | 3 << 24);
    macro_rules! undefined_instructions {
        ($($instruction:literal),+) => {
            $(
                let found = attempt!(".arch_extension sve", $instruction, ".arch_extension nosve";);
                require!(found.is_err_and(|abort| abort.is_undefined()), "{} gives {found:x?}", $instruction);
            )+
        };
    }
    undefined_instructions!("rdvl x9, #1", "mov z0.d, #0", "ptrue p0.b", "setffr", "mov z31.b, #1");
    let found = attempt!("msr s3_0_c1_c2_0, {v}"; v = in(reg) 15u64); // ZCR_EL1
    poke!("cpacr_el1" = 3u64 << 20);
    require!(found.is_err_and(|abort| abort.is_undefined()), "ZCR_EL1 can be written: {found:x?}");
    Ok(())
}

/// What the guest may rely on, and what must be hidden.
pub fn id_registers(_: &World) -> Result<(), String> {
    let (mut pfr0, mut mmfr0, mut dfr0) = (0u64, 0u64, 0u64);
    attempt!("mrs {v}, id_aa64pfr0_el1"; v = inout(reg) pfr0).map_err(|abort| format!("{abort}"))?;
    attempt!("mrs {v}, id_aa64mmfr0_el1"; v = inout(reg) mmfr0).map_err(|abort| format!("{abort}"))?;
    attempt!("mrs {v}, id_aa64dfr0_el1"; v = inout(reg) dfr0).map_err(|abort| format!("{abort}"))?;
    expect!("EL2 in ID_AA64PFR0_EL1", pfr0 >> 8 & 0xf, 0);
    expect!("AArch32 at EL1 in ID_AA64PFR0_EL1", pfr0 >> 4 & 0xf, 1);
    expect!("PMU in ID_AA64DFR0_EL1", dfr0 >> 8 & 0xf, 0);
    require!(mmfr0 & 0xf <= 5, "PARange {}", mmfr0 & 0xf);
    Ok(())
}
