//! What has to be forgotten when the CPU changes hands between worlds that distrust each other (Intel, "Speculative
//! Execution Side Channel Mitigations" and SDM volume 2, "CPUID" leaf 7 and volume 4, `IA32_ARCH_CAPABILITIES`).

/// What this CPU needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Barriers {
    /// Indirect branch predictions: IBPB.
    pub predictions: bool,
    /// The level 1 data cache, which a CPU with L1TF reads through entries that are not present.
    pub data_cache: bool,
    /// Fill buffers and the like: VERW.
    pub buffers: bool,
}

const MD_CLEAR: u32 = 1 << 10;
const IBPB: u32 = 1 << 26;
const FLUSH_CMD: u32 = 1 << 28;

const RDCL_NO: u64 = 1;
const SKIP_L1D_FLUSH: u64 = 1 << 3;
const MDS_NO: u64 = 1 << 5;
const TAA_NO: u64 = 1 << 8;
/// FB_CLEAR and RFDS_CLEAR: VERW clears buffers that other bits do not speak of.
const MORE_BUFFERS: u64 = 1 << 17 | 1 << 28;

impl Barriers {
    /// From CPUID leaf 7 EDX and IA32_ARCH_CAPABILITIES, 0 where that does not exist.
    pub fn needed(leaf7_edx: u32, capabilities: u64) -> Self {
        let has = |bit| leaf7_edx & bit != 0;
        Self {
            predictions: has(IBPB),
            data_cache: has(FLUSH_CMD) && capabilities & (RDCL_NO | SKIP_L1D_FLUSH) == 0,
            buffers: has(MD_CLEAR)
                && (capabilities & (MDS_NO | TAA_NO) != MDS_NO | TAA_NO || capabilities & MORE_BUFFERS != 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_gets_what_it_needs() {
        let all = MD_CLEAR | IBPB | FLUSH_CMD;
        let every = Barriers { predictions: true, data_cache: true, buffers: true };
        assert_eq!(Barriers::needed(0, 0), Barriers::default(), "nothing that the CPU has not");
        assert_eq!(Barriers::needed(all, 0), every);
        assert_eq!(Barriers::needed(all, RDCL_NO), Barriers { data_cache: false, ..every });
        assert_eq!(Barriers::needed(all, SKIP_L1D_FLUSH), Barriers { data_cache: false, ..every });
        assert_eq!(Barriers::needed(all, MDS_NO | TAA_NO), Barriers { buffers: false, ..every });
        assert_eq!(Barriers::needed(all, MDS_NO), every);
        assert_eq!(Barriers::needed(all, MDS_NO | TAA_NO | 1 << 17), every);
    }
}
