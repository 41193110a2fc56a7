//! Names of the VMCS's fields and control bits (SDM volume 3, appendix B, "Field Encoding in VMCS"; chapter "Virtual
//! Machine Control Structures"). Only numbers, for `vmx`.

/// Encodings of fields.
#[allow(missing_docs)] // The SDM's names say what they are.
pub mod field {
    pub const VPID: u32 = 0x0000;
    pub const POSTED_INTERRUPT_VECTOR: u32 = 0x0002;

    /// Selectors, limits, access rights and bases of the guest's segments come in one order, two numbers apart: ES, CS, SS,
    /// DS, FS, GS, LDTR, TR; then, limits and bases only, GDTR and IDTR.
    pub const GUEST_ES_SELECTOR: u32 = 0x0800;
    pub const GUEST_CS_SELECTOR: u32 = 0x0802;
    pub const GUEST_SS_SELECTOR: u32 = 0x0804;
    pub const GUEST_DS_SELECTOR: u32 = 0x0806;
    pub const GUEST_FS_SELECTOR: u32 = 0x0808;
    pub const GUEST_GS_SELECTOR: u32 = 0x080a;
    pub const GUEST_LDTR_SELECTOR: u32 = 0x080c;
    pub const GUEST_TR_SELECTOR: u32 = 0x080e;
    pub const GUEST_INTERRUPT_STATUS: u32 = 0x0810;

    pub const HOST_ES_SELECTOR: u32 = 0x0c00;
    pub const HOST_CS_SELECTOR: u32 = 0x0c02;
    pub const HOST_SS_SELECTOR: u32 = 0x0c04;
    pub const HOST_DS_SELECTOR: u32 = 0x0c06;
    pub const HOST_FS_SELECTOR: u32 = 0x0c08;
    pub const HOST_GS_SELECTOR: u32 = 0x0c0a;
    pub const HOST_TR_SELECTOR: u32 = 0x0c0c;

    pub const IO_BITMAP_A: u32 = 0x2000;
    pub const IO_BITMAP_B: u32 = 0x2002;
    pub const MSR_BITMAP: u32 = 0x2004;
    pub const EXIT_MSR_STORE: u32 = 0x2006;
    pub const EXIT_MSR_LOAD: u32 = 0x2008;
    pub const ENTRY_MSR_LOAD: u32 = 0x200a;
    pub const TSC_OFFSET: u32 = 0x2010;
    pub const VIRTUAL_APIC_PAGE: u32 = 0x2012;
    pub const APIC_ACCESS_PAGE: u32 = 0x2014;
    pub const POSTED_INTERRUPT_DESCRIPTOR: u32 = 0x2016;
    pub const EPTP: u32 = 0x201a;
    pub const EOI_EXIT_BITMAP_0: u32 = 0x201c;
    pub const EOI_EXIT_BITMAP_1: u32 = 0x201e;
    pub const EOI_EXIT_BITMAP_2: u32 = 0x2020;
    pub const EOI_EXIT_BITMAP_3: u32 = 0x2022;
    pub const XSS_EXIT_BITMAP: u32 = 0x202c;
    pub const ENCLS_EXIT_BITMAP: u32 = 0x202e;
    pub const TSC_MULTIPLIER: u32 = 0x2032;

    pub const GUEST_PHYSICAL_ADDRESS: u32 = 0x2400;

    pub const LINK_POINTER: u32 = 0x2800;
    pub const GUEST_DEBUGCTL: u32 = 0x2802;
    pub const GUEST_PAT: u32 = 0x2804;
    pub const GUEST_EFER: u32 = 0x2806;
    pub const GUEST_PERF_GLOBAL_CTRL: u32 = 0x2808;
    pub const GUEST_PDPTE_0: u32 = 0x280a;

    pub const HOST_PAT: u32 = 0x2c00;
    pub const HOST_EFER: u32 = 0x2c02;
    pub const HOST_PERF_GLOBAL_CTRL: u32 = 0x2c04;

    pub const PIN_CONTROLS: u32 = 0x4000;
    pub const PRIMARY_CONTROLS: u32 = 0x4002;
    pub const EXCEPTION_BITMAP: u32 = 0x4004;
    pub const PAGE_FAULT_MASK: u32 = 0x4006;
    pub const PAGE_FAULT_MATCH: u32 = 0x4008;
    pub const CR3_TARGET_COUNT: u32 = 0x400a;
    pub const EXIT_CONTROLS: u32 = 0x400c;
    pub const EXIT_MSR_STORE_COUNT: u32 = 0x400e;
    pub const EXIT_MSR_LOAD_COUNT: u32 = 0x4010;
    pub const ENTRY_CONTROLS: u32 = 0x4012;
    pub const ENTRY_MSR_LOAD_COUNT: u32 = 0x4014;
    pub const ENTRY_INTERRUPTION: u32 = 0x4016;
    pub const ENTRY_ERROR_CODE: u32 = 0x4018;
    pub const ENTRY_INSTRUCTION_LENGTH: u32 = 0x401a;
    pub const TPR_THRESHOLD: u32 = 0x401c;
    pub const SECONDARY_CONTROLS: u32 = 0x401e;

    pub const INSTRUCTION_ERROR: u32 = 0x4400;
    pub const EXIT_REASON: u32 = 0x4402;
    pub const EXIT_INTERRUPTION: u32 = 0x4404;
    pub const EXIT_ERROR_CODE: u32 = 0x4406;
    pub const IDT_VECTORING: u32 = 0x4408;
    pub const IDT_VECTORING_ERROR: u32 = 0x440a;
    pub const EXIT_INSTRUCTION_LENGTH: u32 = 0x440c;
    pub const EXIT_INSTRUCTION_INFO: u32 = 0x440e;

    pub const GUEST_ES_LIMIT: u32 = 0x4800;
    pub const GUEST_GDTR_LIMIT: u32 = 0x4810;
    pub const GUEST_IDTR_LIMIT: u32 = 0x4812;
    pub const GUEST_ES_RIGHTS: u32 = 0x4814;
    pub const GUEST_CS_RIGHTS: u32 = 0x4816;
    pub const GUEST_SS_RIGHTS: u32 = 0x4818;
    pub const GUEST_INTERRUPTIBILITY: u32 = 0x4824;
    pub const GUEST_ACTIVITY: u32 = 0x4826;
    pub const GUEST_SYSENTER_CS: u32 = 0x482a;
    pub const PREEMPTION_TIMER: u32 = 0x482e;

    pub const HOST_SYSENTER_CS: u32 = 0x4c00;

    pub const CR0_MASK: u32 = 0x6000;
    pub const CR4_MASK: u32 = 0x6002;
    pub const CR0_SHADOW: u32 = 0x6004;
    pub const CR4_SHADOW: u32 = 0x6006;

    pub const EXIT_QUALIFICATION: u32 = 0x6400;
    pub const GUEST_LINEAR_ADDRESS: u32 = 0x640a;

    pub const GUEST_CR0: u32 = 0x6800;
    pub const GUEST_CR3: u32 = 0x6802;
    pub const GUEST_CR4: u32 = 0x6804;
    pub const GUEST_ES_BASE: u32 = 0x6806;
    pub const GUEST_CS_BASE: u32 = 0x6808;
    pub const GUEST_FS_BASE: u32 = 0x680e;
    pub const GUEST_GS_BASE: u32 = 0x6810;
    pub const GUEST_GDTR_BASE: u32 = 0x6816;
    pub const GUEST_IDTR_BASE: u32 = 0x6818;
    pub const GUEST_DR7: u32 = 0x681a;
    pub const GUEST_RSP: u32 = 0x681c;
    pub const GUEST_RIP: u32 = 0x681e;
    pub const GUEST_RFLAGS: u32 = 0x6820;
    pub const GUEST_PENDING_DEBUG: u32 = 0x6822;
    pub const GUEST_SYSENTER_ESP: u32 = 0x6824;
    pub const GUEST_SYSENTER_EIP: u32 = 0x6826;

    pub const HOST_CR0: u32 = 0x6c00;
    pub const HOST_CR3: u32 = 0x6c02;
    pub const HOST_CR4: u32 = 0x6c04;
    pub const HOST_FS_BASE: u32 = 0x6c06;
    pub const HOST_GS_BASE: u32 = 0x6c08;
    pub const HOST_TR_BASE: u32 = 0x6c0a;
    pub const HOST_GDTR_BASE: u32 = 0x6c0c;
    pub const HOST_IDTR_BASE: u32 = 0x6c0e;
    pub const HOST_SYSENTER_ESP: u32 = 0x6c10;
    pub const HOST_SYSENTER_EIP: u32 = 0x6c12;
    pub const HOST_RSP: u32 = 0x6c14;
    pub const HOST_RIP: u32 = 0x6c16;
}

/// Pin-based controls.
#[allow(missing_docs)]
pub mod pin {
    pub const EXTERNAL_INTERRUPT: u32 = 1 << 0;
    pub const NMI: u32 = 1 << 3;
    pub const VIRTUAL_NMIS: u32 = 1 << 5;
    pub const PREEMPTION_TIMER: u32 = 1 << 6;
    pub const POSTED_INTERRUPTS: u32 = 1 << 7;
}

/// Primary processor-based controls.
#[allow(missing_docs)]
pub mod primary {
    pub const INTERRUPT_WINDOW: u32 = 1 << 2;
    pub const TSC_OFFSETTING: u32 = 1 << 3;
    pub const HLT: u32 = 1 << 7;
    pub const INVLPG: u32 = 1 << 9;
    pub const MWAIT: u32 = 1 << 10;
    pub const RDPMC: u32 = 1 << 11;
    pub const RDTSC: u32 = 1 << 12;
    pub const CR3_LOAD: u32 = 1 << 15;
    pub const CR3_STORE: u32 = 1 << 16;
    pub const CR8_LOAD: u32 = 1 << 19;
    pub const CR8_STORE: u32 = 1 << 20;
    pub const TPR_SHADOW: u32 = 1 << 21;
    pub const NMI_WINDOW: u32 = 1 << 22;
    pub const MOV_DR: u32 = 1 << 23;
    pub const UNCONDITIONAL_IO: u32 = 1 << 24;
    pub const IO_BITMAPS: u32 = 1 << 25;
    pub const MSR_BITMAPS: u32 = 1 << 28;
    pub const MONITOR: u32 = 1 << 29;
    pub const PAUSE: u32 = 1 << 30;
    pub const SECONDARY: u32 = 1 << 31;
}

/// Secondary processor-based controls.
#[allow(missing_docs)]
pub mod secondary {
    pub const EPT: u32 = 1 << 1;
    pub const DESCRIPTOR_TABLE: u32 = 1 << 2;
    pub const RDTSCP: u32 = 1 << 3;
    pub const VIRTUAL_X2APIC: u32 = 1 << 4;
    pub const VPID: u32 = 1 << 5;
    pub const WBINVD: u32 = 1 << 6;
    pub const UNRESTRICTED_GUEST: u32 = 1 << 7;
    pub const APIC_REGISTERS: u32 = 1 << 8;
    pub const VIRTUAL_INTERRUPT_DELIVERY: u32 = 1 << 9;
    pub const RDRAND: u32 = 1 << 11;
    pub const INVPCID: u32 = 1 << 12;
    pub const ENCLS: u32 = 1 << 15;
    pub const RDSEED: u32 = 1 << 16;
    pub const CONCEAL_PT: u32 = 1 << 19;
    pub const XSAVES: u32 = 1 << 20;
    pub const TSC_SCALING: u32 = 1 << 25;
    pub const USER_WAIT: u32 = 1 << 26;
}

/// VM-exit controls.
#[allow(missing_docs)]
pub mod exit {
    pub const SAVE_DEBUG: u32 = 1 << 2;
    pub const HOST_64BIT: u32 = 1 << 9;
    pub const LOAD_PERF_GLOBAL_CTRL: u32 = 1 << 12;
    pub const ACKNOWLEDGE_INTERRUPT: u32 = 1 << 15;
    pub const SAVE_PAT: u32 = 1 << 18;
    pub const LOAD_PAT: u32 = 1 << 19;
    pub const SAVE_EFER: u32 = 1 << 20;
    pub const LOAD_EFER: u32 = 1 << 21;
}

/// VM-entry controls.
#[allow(missing_docs)]
pub mod entry {
    pub const LOAD_DEBUG: u32 = 1 << 2;
    pub const IA32E_GUEST: u32 = 1 << 9;
    pub const LOAD_PERF_GLOBAL_CTRL: u32 = 1 << 13;
    pub const LOAD_PAT: u32 = 1 << 14;
    pub const LOAD_EFER: u32 = 1 << 15;
}

/// Basic exit reasons (SDM volume 3, appendix C).
#[allow(missing_docs)]
pub mod reason {
    pub const EXCEPTION_OR_NMI: u32 = 0;
    pub const EXTERNAL_INTERRUPT: u32 = 1;
    pub const TRIPLE_FAULT: u32 = 2;
    pub const INIT: u32 = 3;
    pub const SIPI: u32 = 4;
    pub const INTERRUPT_WINDOW: u32 = 7;
    pub const NMI_WINDOW: u32 = 8;
    pub const TASK_SWITCH: u32 = 9;
    pub const CPUID: u32 = 10;
    pub const GETSEC: u32 = 11;
    pub const HLT: u32 = 12;
    pub const INVD: u32 = 13;
    pub const INVLPG: u32 = 14;
    pub const RDPMC: u32 = 15;
    pub const RDTSC: u32 = 16;
    pub const VMCALL: u32 = 18;
    pub const CONTROL_REGISTER: u32 = 28;
    pub const DEBUG_REGISTER: u32 = 29;
    pub const IO: u32 = 30;
    pub const RDMSR: u32 = 31;
    pub const WRMSR: u32 = 32;
    pub const MWAIT: u32 = 36;
    pub const MONITOR: u32 = 39;
    pub const PAUSE: u32 = 40;
    pub const TPR_BELOW_THRESHOLD: u32 = 43;
    pub const EPT_VIOLATION: u32 = 48;
    pub const EPT_MISCONFIGURATION: u32 = 49;
    pub const RDTSCP: u32 = 51;
    pub const PREEMPTION_TIMER: u32 = 52;
    pub const WBINVD: u32 = 54;
    pub const XSETBV: u32 = 55;
    pub const APIC_WRITE: u32 = 56;
    pub const XSAVES: u32 = 63;
    pub const XRSTORS: u32 = 64;
    pub const TDCALL: u32 = 77;
    /// The entry itself failed, on the guest's state.
    pub const ENTRY_FAILED: u32 = 1 << 31;
}
