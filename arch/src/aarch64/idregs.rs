//! ID registers as host and guests see them (HCR_EL2.TID3; Arm ARM D19.2): the hardware's, without what Postern neither
//! switches nor lets through.

use super::features::{self, Feature};
use super::sysreg::{field, mrs};

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// The host.
    Host,
    /// A guest, which has no SVE, PMU or RAS.
    Guest,
}

/// A mask of four-bit fields, given by their lowest bits.
const fn fields<const N: usize>(lowest: [u32; N]) -> u64 {
    let mut mask = 0;
    let mut index = 0;
    while index < N {
        mask |= 0xf << lowest[index];
        index += 1;
    }
    mask
}

/// `value` with the unsigned field at `shift` no higher than `most`.
const fn at_most(value: u64, shift: u32, most: u64) -> u64 {
    if field(value, shift, 4) > most { value & !(0xf << shift) | most << shift } else { value }
}

/// Value of the ID register with op0 = 3, op1 = 0, CRn = 0.
pub fn read(crm: u64, op2: u64, reader: Reader) -> u64 {
    let host = reader == Reader::Host;
    match (crm, op2) {
        (4, 0) => {
            // FP, AdvSIMD, GIC, DIT, CSV2, CSV3; AArch64 only at EL0 and EL1, no EL2 or EL3.
            let value = at_most(mrs!("id_aa64pfr0_el1"), 56, 1) & fields([16, 20, 24, 48, 56, 60]) | 0x11;
            let sve = if features::has(Feature::Sve) { 1 << 32 } else { 0 };
            if host { value | sve | mrs!("id_aa64pfr0_el1") & fields([28]) } else { value }
        }
        // BT, SSBS.
        (4, 1) => mrs!("id_aa64pfr1_el1") & fields([0, 4]),
        (4, 4) if host && features::has(Feature::Sve) => mrs!("s3_0_c0_c4_4"),
        (5, 0) => {
            // Debug version, breakpoints, watchpoints, context comparators; PMU for the host.
            let value = mrs!("id_aa64dfr0_el1");
            value & fields([12, 20, 28]) | 6 | if host { value & fields([8]) } else { 0 }
        }
        // All but TME.
        (6, 0) => mrs!("id_aa64isar0_el1") & !fields([24]),
        // All but LS64, which HCRX_EL2 would have to allow.
        (6, 1) => mrs!("id_aa64isar1_el1") & !fields([60]),
        // RPRES, GPA3, APA3, MOPS, BC, CLRBHB, CSSC; not WFxT, whose timeout Postern does not read.
        (6, 2) => mrs!("s3_0_c0_c6_2") & fields([4, 8, 12, 16, 20, 28, 52]),
        (7, 0) => {
            // PARange, ASIDBits, BigEnd, SNSMem, BigEndEL0, TGran16, TGran64, TGran4, ExS; no LPA2, no EL2 granules.
            let value = mrs!("id_aa64mmfr0_el1") & fields([0, 4, 8, 12, 16, 20, 24, 28, 44]);
            let value = at_most(at_most(value, 0, 2), 20, 1);
            if field(value, 28, 4) == 1 { value & !(0xf << 28) } else { value }
        }
        // HAFDBS, HPDS, PAN, SpecSEI, ETS, nTLBPA, AFP.
        (7, 1) => at_most(mrs!("id_aa64mmfr1_el1") & fields([0, 12, 20, 24, 36, 44, 48]), 0, 2),
        // CnP, UAO, LSM, IESB, CCIDX, ST, AT, IDS, TTL, BBM, E0PD.
        (7, 2) => mrs!("id_aa64mmfr2_el1") & fields([0, 4, 8, 12, 20, 28, 32, 36, 48, 52, 60]),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clamping_touches_only_its_field() {
        assert_eq!(at_most(0x65, 4, 2), 0x25);
        assert_eq!(at_most(0x15, 4, 2), 0x15);
        assert_eq!(fields([0, 60]), 0xf000_0000_0000_000f);
    }
}
