//! What the CPU has to forget, or must not believe, when it changes hands between worlds that distrust each other (Intel,
//! "Speculative Execution Side Channel Mitigations", "Branch History Injection", "Post-barrier Return Stack Buffer
//! Predictions"; SDM volume 2, "CPUID" leaf 7, and volume 4, `IA32_SPEC_CTRL` and `IA32_ARCH_CAPABILITIES`).

use core::cell::Cell;
use core::fmt;

/// What this CPU needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Barriers {
    /// Between host and guest, indirect branch predictions: IBPB.
    pub predictions: bool,
    /// Between host and guest, the level 1 data cache, which a CPU with L1TF reads through entries that are not present.
    pub data_cache: bool,
    /// Between host and guest, fill buffers and the like: VERW.
    pub buffers: bool,
    /// IA32_SPEC_CTRL while Postern runs; 0 on a CPU that has it not. IBRS keeps what others have taught the CPU from
    /// Postern's indirect branches, and STIBP what the other hyperthread does. Set at each exit: without enhanced IBRS
    /// the write itself is what protects.
    pub control: u64,
    /// At each exit: the CPU would use the predictions of whoever ran.
    pub returns: Returns,
}

/// Whose predictions of returns have to be replaced after an exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Returns {
    /// None: enhanced IBRS and SMEP keep them apart.
    #[default]
    None,
    /// The first one: that of CPUs with enhanced IBRS and without PBRSB_NO.
    First,
    /// All.
    All,
}

const MD_CLEAR: u32 = 1 << 10;
const IBRS_IBPB: u32 = 1 << 26;
const STIBP: u32 = 1 << 27;
const FLUSH_CMD: u32 = 1 << 28;
/// Leaf 7.2.
const BHI_CTRL: u32 = 1 << 4;

const RDCL_NO: u64 = 1;
const IBRS_ALL: u64 = 1 << 1;
const SKIP_L1D_FLUSH: u64 = 1 << 3;
const MDS_NO: u64 = 1 << 5;
const TAA_NO: u64 = 1 << 8;
const BHI_NO: u64 = 1 << 20;
const PBRSB_NO: u64 = 1 << 24;
/// FB_CLEAR and RFDS_CLEAR: VERW clears buffers that other bits do not speak of.
const MORE_BUFFERS: u64 = 1 << 17 | 1 << 28;

/// Bits of IA32_SPEC_CTRL.
const CONTROL_IBRS: u64 = 1;
const CONTROL_STIBP: u64 = 1 << 1;
const CONTROL_BHI: u64 = 1 << 10;

impl Barriers {
    /// Whether they are possible on a CPU that needs `other`, and enough: with the same register and commands, and no less to
    /// forget.
    pub fn serve(&self, other: &Self) -> bool {
        (self.control, self.predictions, self.data_cache) == (other.control, other.predictions, other.data_cache)
            && self.buffers >= other.buffers
            && self.returns >= other.returns
    }

    /// From EDX of CPUID leaves 7 and 7.2, and IA32_ARCH_CAPABILITIES; 0 where they do not exist.
    pub fn needed(leaf7: u32, leaf7_2: u32, capabilities: u64) -> Self {
        let has = |bit| leaf7 & bit != 0;
        let ibrs = has(IBRS_IBPB);
        let bit = |condition, bit| if condition { bit } else { 0 };
        Self {
            predictions: ibrs,
            data_cache: has(FLUSH_CMD) && capabilities & (RDCL_NO | SKIP_L1D_FLUSH) == 0,
            buffers: has(MD_CLEAR)
                && (capabilities & (MDS_NO | TAA_NO) != MDS_NO | TAA_NO || capabilities & MORE_BUFFERS != 0),
            control: bit(ibrs, CONTROL_IBRS)
                | bit(ibrs && has(STIBP), CONTROL_STIBP)
                | bit(ibrs && leaf7_2 & BHI_CTRL != 0 && capabilities & BHI_NO == 0, CONTROL_BHI),
            returns: match (capabilities & IBRS_ALL != 0, capabilities & PBRSB_NO != 0) {
                _ if !ibrs => Returns::None,
                (false, _) => Returns::All,
                (true, false) => Returns::First,
                (true, true) => Returns::None,
            },
        }
    }
}

impl fmt::Display for Barriers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("nothing that this CPU has");
        }
        let parts = [
            (self.control & CONTROL_IBRS, "IBRS"),
            (self.control & CONTROL_STIBP, "STIBP"),
            (self.control & CONTROL_BHI, "BHI_DIS_S"),
            ((self.returns == Returns::First).into(), "the first return"),
            ((self.returns == Returns::All).into(), "returns"),
            (self.predictions.into(), "IBPB"),
            (self.data_cache.into(), "L1D flush"),
            (self.buffers.into(), "VERW"),
        ];
        let mut between = "";
        for (_, name) in parts.into_iter().filter(|(on, _)| *on != 0) {
            write!(f, "{between}{name}")?;
            between = ", ";
        }
        Ok(())
    }
}

/// A register and a value, as the CPU loads and stores them by itself at entries and exits (SDM volume 3, "Format of an MSR
/// Entry").
#[repr(C, align(16))]
#[derive(Debug)]
pub struct MsrEntry {
    register: u32,
    reserved: u32,
    /// The value.
    pub value: Cell<u64>,
}

impl MsrEntry {
    /// Of this register, with the value 0.
    pub const fn new(register: u32) -> Self {
        Self { register, reserved: 0, value: Cell::new(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u32 = MD_CLEAR | IBRS_IBPB | STIBP | FLUSH_CMD;
    const EVERY: Barriers =
        Barriers { predictions: true, data_cache: true, buffers: true, control: 0b11, returns: Returns::All };

    #[test]
    fn a_cpu_gets_what_it_needs() {
        let needed = |capabilities| Barriers::needed(ALL, 0, capabilities);
        assert_eq!(Barriers::needed(0, 0, 0), Barriers::default(), "nothing that the CPU has not");
        assert_eq!(needed(0), EVERY);
        assert_eq!(needed(RDCL_NO), Barriers { data_cache: false, ..EVERY });
        assert_eq!(needed(SKIP_L1D_FLUSH), Barriers { data_cache: false, ..EVERY });
        assert_eq!(needed(MDS_NO | TAA_NO), Barriers { buffers: false, ..EVERY });
        assert_eq!(needed(MDS_NO), EVERY);
        assert_eq!(needed(MDS_NO | TAA_NO | 1 << 17), EVERY);
    }

    #[test]
    fn postern_branches_by_its_own_predictions() {
        let control = |leaf7, leaf7_2, capabilities| Barriers::needed(leaf7, leaf7_2, capabilities).control;
        assert_eq!(control(IBRS_IBPB, 0, 0), 1);
        assert_eq!(control(STIBP, BHI_CTRL, 0), 0, "the register is there with IBRS");
        assert_eq!(control(IBRS_IBPB | STIBP, BHI_CTRL, 0), 0b11 | 1 << 10);
        assert_eq!(control(IBRS_IBPB | STIBP, BHI_CTRL, BHI_NO), 0b11);
        let returns = |capabilities| Barriers::needed(IBRS_IBPB, 0, capabilities).returns;
        assert_eq!([returns(0), returns(PBRSB_NO)], [Returns::All; 2]);
        assert_eq!([returns(IBRS_ALL), returns(IBRS_ALL | PBRSB_NO)], [Returns::First, Returns::None]);
        assert_eq!(Barriers::needed(0, 0, IBRS_ALL).returns, Returns::None);
    }

    #[test]
    fn a_cpu_that_differs_is_told_from_one_that_needs_less() {
        let less = Barriers { buffers: false, returns: Returns::First, ..EVERY };
        assert!(EVERY.serve(&EVERY) && EVERY.serve(&less) && !less.serve(&EVERY));
        for other in [Barriers { control: 1, ..EVERY }, Barriers { data_cache: false, ..EVERY }, Barriers::default()] {
            assert!(!EVERY.serve(&other) && !other.serve(&EVERY));
        }
    }

    #[test]
    fn the_log_says_what_is_done() {
        assert_eq!(EVERY.to_string(), "IBRS, STIBP, returns, IBPB, L1D flush, VERW");
        let some = Barriers { predictions: true, returns: Returns::First, ..Barriers::default() };
        assert_eq!(some.to_string(), "the first return, IBPB");
        assert_eq!(Barriers::default().to_string(), "nothing that this CPU has");
    }

    #[test]
    fn the_cpus_format() {
        assert_eq!((size_of::<MsrEntry>(), core::mem::offset_of!(MsrEntry, value)), (16, 8));
        let entry = MsrEntry::new(0x48);
        assert_eq!((entry.register, entry.reserved), (0x48, 0));
    }
}
