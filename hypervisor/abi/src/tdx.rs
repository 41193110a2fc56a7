//! TDCALL and TDVMCALL: leaf and sub-function numbers, status codes, fields and layouts (Intel TDX Module 1.5 ABI
//! Specification; Guest-Host-Communication Interface 1.5, "TDG.VP.VMCALL").

/// Registers by number: in status codes, in the mask of TDG.VP.VMCALL, and as vCPUs number them on x86-64.
pub mod register {
    /// RAX.
    pub const RAX: usize = 0;
    /// RCX.
    pub const RCX: usize = 1;
    /// RDX.
    pub const RDX: usize = 2;
    /// RBX.
    pub const RBX: usize = 3;
    /// RSP.
    pub const RSP: usize = 4;
    /// RBP.
    pub const RBP: usize = 5;
    /// RSI.
    pub const RSI: usize = 6;
    /// RDI.
    pub const RDI: usize = 7;
    /// R8.
    pub const R8: usize = 8;
    /// R9.
    pub const R9: usize = 9;
    /// R10.
    pub const R10: usize = 10;
    /// R11.
    pub const R11: usize = 11;
    /// R12.
    pub const R12: usize = 12;
    /// R13.
    pub const R13: usize = 13;
    /// R14.
    pub const R14: usize = 14;
    /// R15.
    pub const R15: usize = 15;
}

/// Leaves of TDCALL, in RAX bits 15:0.
pub mod leaf {
    /// `TDG.VP.VMCALL`.
    pub const VP_VMCALL: u64 = 0;
    /// `TDG.VP.INFO`.
    pub const VP_INFO: u64 = 1;
    /// `TDG.MR.RTMR.EXTEND`.
    pub const MR_RTMR_EXTEND: u64 = 2;
    /// `TDG.VP.VEINFO.GET`.
    pub const VP_VEINFO_GET: u64 = 3;
    /// `TDG.MR.REPORT`.
    pub const MR_REPORT: u64 = 4;
    /// `TDG.MEM.PAGE.ACCEPT`.
    pub const MEM_PAGE_ACCEPT: u64 = 6;
    /// `TDG.VM.RD`.
    pub const VM_RD: u64 = 7;
    /// `TDG.VM.WR`.
    pub const VM_WR: u64 = 8;
}

/// Position of the leaf's version in RAX, 8 bits; all above is zero.
pub const VERSION_SHIFT: u32 = 16;

/// Completion statuses in RAX. The low half names an operand ([`register`]) or a mapping level ([`level`]).
pub mod status {
    /// Done.
    pub const SUCCESS: u64 = 0;
    /// Bit 63: nothing was done.
    pub const ERROR: u64 = 1 << 63;
    /// An operand is malformed; its number is in the low half.
    pub const OPERAND_INVALID: u64 = 0xC000_0100_0000_0000;
    /// No virtualization exception has left information.
    pub const NO_VALID_VE_INFO: u64 = 0xC000_0704_0000_0000;
    /// The page was accepted before, and is as it was. A warning; the level of its mapping is in the low half.
    pub const PAGE_ALREADY_ACCEPTED: u64 = 0x0000_0B0A_0000_0000;
    /// There are mappings of another level, which is in the low half.
    pub const PAGE_SIZE_MISMATCH: u64 = 0xC000_0B0B_0000_0000;
    /// The page is in a state that does not allow this.
    pub const EPT_ENTRY_STATE_INCORRECT: u64 = 0xC000_0B0D_0000_0000;
    /// There is no such field.
    pub const METADATA_FIELD_ID_INCORRECT: u64 = 0xC000_0C00_0000_0000;
    /// No bit that the mask selects can be written.
    pub const METADATA_FIELD_NOT_WRITABLE: u64 = 0xC000_0C01_0000_0000;
    /// The field cannot be given this value.
    pub const METADATA_FIELD_VALUE_NOT_VALID: u64 = 0xC000_0C03_0000_0000;
    /// Not a value: the first field's number, in RDX, was asked for. A warning.
    pub const METADATA_FIRST_FIELD_ID_IN_CONTEXT: u64 = 0x0000_0C0B_0000_0000;
}

/// Sizes of private mappings in `TDG.MEM.PAGE.ACCEPT`.
pub mod level {
    /// 4 KiB.
    pub const PAGE: u64 = 0;
    /// 2 MiB.
    pub const BLOCK: u64 = 1;
    /// Bits of the level beside a guest physical address.
    pub const MASK: u64 = 7;
}

/// Bits of the field ATTRIBUTES.
pub mod attributes {
    /// An access to a page that is not accepted is no exception that the guest's own handler could be fooled with. Linux
    /// does not go on without it.
    pub const SEPT_VE_DISABLE: u64 = 1 << 28;
}

/// What Postern's guests have in ATTRIBUTES.
pub const ATTRIBUTES: u64 = attributes::SEPT_VE_DISABLE;
/// What they have in XFAM at least: x87, SSE, AVX.
pub const XFAM: u64 = 7;

/// Fields of a TD. What tells them apart is [`CLASS`](field::CLASS) and [`CODE`](field::CODE); the other bits of an
/// identifier are hints of size, element count and access.
pub mod field {
    /// Bits 61:56.
    pub const CLASS: u64 = 0x3F00_0000_0000_0000;
    /// Bits 23:0.
    pub const CODE: u64 = 0x00FF_FFFF;
    /// No field.
    pub const NONE: u64 = u64::MAX;

    /// Number of vCPUs.
    pub const NUM_VCPUS: u64 = 0x9010_0002_0000_0001;
    /// Number of nested VMs.
    pub const NUM_L2_VMS: u64 = 0x9010_0001_0000_0005;
    /// [`super::ATTRIBUTES`].
    pub const ATTRIBUTES: u64 = 0x1110_0003_0000_0000;
    /// [`super::XFAM`].
    pub const XFAM: u64 = 0x1110_0003_0000_0001;
    /// Most vCPUs.
    pub const MAX_VCPUS: u64 = 0x1110_0002_0000_0002;
    /// 0 for an address width of 48 bits, 1 for 52. Narrower ones are only in `TDG.VP.INFO`.
    pub const GPAW: u64 = 0x1110_0000_0000_0003;
    /// Notifications that the guest wants.
    pub const NOTIFY_ENABLES: u64 = 0x9110_0003_0000_0010;
    /// Configuration flags.
    pub const CONFIG_FLAGS: u64 = 0x1110_0003_0000_0016;
    /// [`super::td_ctls`].
    pub const TD_CTLS: u64 = 0x1110_0003_0000_0017;
    /// Whether every vCPU has an x2APIC identifier of its own.
    pub const TOPOLOGY_ENUM_CONFIGURED: u64 = 0x9100_0000_0000_0019;
    /// Launch measurement, 6 words.
    pub const MRTD: u64 = 0x1310_0003_0000_0000;
    /// Configuration of the owner's, 6 words.
    pub const MRCONFIGID: u64 = 0x1310_0003_0000_0010;
    /// Owner, 6 words.
    pub const MROWNER: u64 = 0x1310_0003_0000_0018;
    /// Configuration of the owner's for the workload, 6 words.
    pub const MROWNERCONFIG: u64 = 0x1310_0003_0000_0020;
    /// Measurement registers of the guest's, 4 of 6 words.
    pub const RTMR: u64 = 0x1310_0003_0000_0040;
    /// Measurement of service TDs, 6 words.
    pub const SERVTD_HASH: u64 = 0x9910_0003_0000_0000;
    /// Number of service TDs.
    pub const SERVTD_NUM: u64 = 0x9910_0001_0000_0006;
}

/// Bits of the field TD_CTLS.
pub mod td_ctls {
    /// Pages that are not accepted raise no exception; decided by [`super::attributes`] here.
    pub const PENDING_VE_DISABLE: u64 = 1 << 0;
    /// CPUID tells the topology.
    pub const ENUM_TOPOLOGY: u64 = 1 << 1;
    /// CPUID leaf 2 is answered.
    pub const VIRT_CPUID2: u64 = 1 << 2;
    /// Fewer virtualization exceptions; implies the two above.
    pub const REDUCE_VE: u64 = 1 << 3;
    /// No bit changes any more.
    pub const LOCK: u64 = 1 << 63;
}

/// Measurement registers of a guest, and bytes of each.
pub const RTMRS: usize = 4;
/// Bytes of a measurement: SHA-384.
pub const MEASUREMENT_SIZE: usize = 48;
/// Alignment of the data of `TDG.MR.RTMR.EXTEND`, which are [`MEASUREMENT_SIZE`] bytes.
pub const EXTEND_ALIGN: u64 = 64;

/// TDREPORT_STRUCT: byte offsets, sizes and values.
pub mod report {
    /// Bytes of the structure, and its alignment.
    pub const SIZE: usize = 1024;
    /// Bytes of REPORTDATA, and its alignment.
    pub const DATA_SIZE: usize = 64;
    /// First byte: a TD's report. Subtype, version and the reserved byte after it are zero.
    pub const TYPE: u8 = 0x81;
    /// SHA-384 of TEE_TCB_INFO.
    pub const TCB_INFO_HASH: usize = 32;
    /// SHA-384 of TDINFO.
    pub const TD_INFO_HASH: usize = TCB_INFO_HASH + super::MEASUREMENT_SIZE;
    /// REPORTDATA.
    pub const DATA: usize = TD_INFO_HASH + super::MEASUREMENT_SIZE;
    /// Message authentication code, 32 bytes.
    pub const MAC: usize = DATA + DATA_SIZE + 32;
    /// TEE_TCB_INFO.
    pub const TCB_INFO: usize = 256;
    /// Bytes of TEE_TCB_INFO.
    pub const TCB_INFO_SIZE: usize = 239;
    /// TDINFO: ATTRIBUTES, XFAM, and the measurements.
    pub const TD_INFO: usize = 512;
    /// Bytes of TDINFO.
    pub const TD_INFO_SIZE: usize = 512;
    /// ATTRIBUTES, in TDINFO.
    pub const ATTRIBUTES: usize = TD_INFO;
    /// XFAM, in TDINFO.
    pub const XFAM: usize = TD_INFO + 8;
    /// MRTD, in TDINFO; after it MRCONFIGID, MROWNER and MROWNERCONFIG.
    pub const MRTD: usize = TD_INFO + 16;
    /// The first RTMR, in TDINFO.
    pub const RTMR: usize = MRTD + 4 * super::MEASUREMENT_SIZE;
}

const _: () = assert!(report::DATA == 128 && report::MAC == 224 && report::MAC + 32 == report::TCB_INFO);
const _: () = assert!(report::TCB_INFO + report::TCB_INFO_SIZE + 17 == report::TD_INFO);
const _: () = assert!(report::RTMR - report::TD_INFO == 208);
const _: () = assert!(report::TD_INFO + report::TD_INFO_SIZE == report::SIZE);

/// `TDG.VP.VMCALL`: R10 = 0 and a sub-function in R11; the status comes back in R10.
pub mod vmcall {
    /// Registers that RCX must not name: RAX, RCX, RSP, and what is no register.
    pub const FORBIDDEN: u64 = 0xFFFF_FFFF_0000_0013;

    /// `Instruction.CPUID`.
    pub const CPUID: u64 = 10;
    /// `Instruction.HLT`.
    pub const HLT: u64 = 12;
    /// `Instruction.IO`.
    pub const IO: u64 = 30;
    /// `Instruction.RDMSR`.
    pub const RDMSR: u64 = 31;
    /// `Instruction.WRMSR`.
    pub const WRMSR: u64 = 32;
    /// `#VE.RequestMMIO`.
    pub const MMIO: u64 = 48;
    /// `GetTdVmCallInfo`.
    pub const GET_INFO: u64 = 0x1_0000;
    /// `MapGPA`.
    pub const MAP_GPA: u64 = 0x1_0001;
    /// `GetQuote`.
    pub const GET_QUOTE: u64 = 0x1_0002;
    /// `ReportFatalError`.
    pub const REPORT_FATAL_ERROR: u64 = 0x1_0003;
    /// `SetupEventNotifyInterrupt`.
    pub const SETUP_EVENT_NOTIFY: u64 = 0x1_0004;

    /// Done.
    pub const SUCCESS: u64 = 0;
    /// Done in part; R11 says how far.
    pub const RETRY: u64 = 1;
    /// An operand is malformed.
    pub const INVALID_OPERAND: u64 = 1 << 63;
    /// The page cannot be converted.
    pub const GPA_INUSE: u64 = INVALID_OPERAND | 1;
    /// An address or a size is not aligned.
    pub const ALIGN_ERROR: u64 = INVALID_OPERAND | 2;
    /// There is no such sub-function.
    pub const SUBFUNC_UNSUPPORTED: u64 = INVALID_OPERAND | 3;

    /// CPUID leaves that a VMM answers.
    pub const CPUID_LEAVES: core::ops::RangeInclusive<u64> = 0x4000_0000..=0x4FFF_FFFF;
    /// First vector that [`SETUP_EVENT_NOTIFY`] takes; the last is 255.
    pub const FIRST_VECTOR: u64 = 32;

    /// Optional sub-functions in R11 of [`GET_INFO`] with R12 = 1.
    pub mod optional {
        /// [`super::GET_QUOTE`].
        pub const GET_QUOTE: u64 = 1 << 0;
        /// [`super::SETUP_EVENT_NOTIFY`].
        pub const SETUP_EVENT_NOTIFY: u64 = 1 << 1;
    }
}

/// The header of GetQuote's buffer, as 64-bit words.
pub mod quote {
    /// Status, from the VMM.
    pub const STATUS: usize = 1;
    /// Length of the report in the low half, of the quote in the high half.
    pub const LENGTHS: usize = 2;
    /// No quoting service.
    pub const SERVICE_UNAVAILABLE: u64 = 1 << 63 | 1;
}
