//! `docs/calls.md`, rendered.

use abi::tdx::{leaf, vmcall};
use abi::{host, pkvm, psci, rsi, run, smccc};
use hypervisor::call::host::CALLS;
use std::fmt::Write;

/// Name, number and meaning.
type Row = (&'static str, i64, &'static str);
/// Name, number, arguments, results, meaning.
type GuestCall = (&'static str, u64, &'static str, &'static str, &'static str);

const INTRODUCTION: &str = "\
# Calls

Made from the tables in `hypervisor/src/call` and `hypervisor/abi`; a test says when it is stale, and writes it anew with
`POSTERN_BLESS=1 cargo test -p tests --test calls_md`.

## Host calls

HVC #0 on arm64: the number goes in x0 and arguments in x1 and following; the status comes back in x0 and results in x1 and
following. VMCALL on x86-64: the number goes in RAX and arguments in RDI, RSI, RDX, RCX, R8 and R9; the status comes back in RAX
and results in RDI, RSI and RDX.

A refused call has changed nothing. A call that answers `MORE` has got further and is repeated with the same arguments: no call
works longer than the published bound.

";

const STATUS: [Row; 15] = [
    ("OK", host::OK, "done"),
    ("MORE", host::MORE, "progress was made; repeat the call"),
    ("NOT_SUPPORTED", host::NOT_SUPPORTED, "no such call"),
    ("INVALID", host::INVALID, "an argument is malformed: unaligned, zero, too large, or an unknown option"),
    ("ADDRESS", host::ADDRESS, "the physical address is not RAM, or the guest address is outside the VM's RAM"),
    ("OWNER", host::OWNER, "the frame is not the caller's to use in this way"),
    (
        "BUSY",
        host::BUSY,
        "the frame is pinned, or the object is in use by another CPU: try again (`VM_CREATE`, `VM_RECLAIM` and `AUDIT` also \
         when it works on another VM)",
    ),
    ("NO_META", host::NO_META, "the VM's metadata is used up: `VM_DONATE_META`"),
    ("NO_POOL", host::NO_POOL, "Postern's pool is used up: `POOL_TOPUP`"),
    ("STATE", host::STATE, "the VM or vCPU is not in a state that allows the call"),
    ("NO_SUCH", host::NO_SUCH, "no VM with this handle, or no vCPU with this index"),
    ("EXISTS", host::EXISTS, "something is there already"),
    ("POISONED", host::POISONED, "the frame has failed in hardware"),
    ("LIMIT", host::LIMIT, "a fixed limit is reached: VMs, vCPUs, pins"),
    ("ABSENT", host::ABSENT, "the machine lacks something the call needs"),
];

const COUNTERS: [Row; host::counter::COUNT] = [
    ("HOST_CALLS", host::counter::HOST_CALLS as i64, "host calls taken"),
    ("HOST_REFUSALS", host::counter::HOST_REFUSALS as i64, "host calls refused"),
    ("GUEST_CALLS", host::counter::GUEST_CALLS as i64, "guest calls taken"),
    ("GUEST_REFUSALS", host::counter::GUEST_REFUSALS as i64, "guest calls refused"),
    ("HOST_ABORTS", host::counter::HOST_ABORTS as i64, "accesses of the host to memory that is not its own"),
    ("GUEST_ENTRIES", host::counter::GUEST_ENTRIES as i64, "guest entries"),
    ("HOST_EXITS", host::counter::HOST_EXITS as i64, "exits to the host"),
    ("WIPES", host::counter::WIPES as i64, "frames wiped"),
    ("SPLITS", host::counter::SPLITS as i64, "blocks of 2 MiB split into pages"),
    ("MERGES", host::counter::MERGES as i64, "blocks merged again"),
    ("FLUSHES", host::counter::FLUSHES as i64, "TLB flushes"),
    (
        "POSTERN_FRAMES",
        host::counter::POSTERN_FRAMES as i64,
        "frames that are Postern's own; no count, but how many now",
    ),
    ("POOL_FREE", host::counter::POOL_FREE as i64, "free frames in Postern's pool now"),
    ("LONGEST_TICKS", host::counter::LONGEST_TICKS as i64, "longest time with interrupts off, in ticks"),
    ("LONGEST_CAUSE", host::counter::LONGEST_CAUSE as i64, "its cause: the call's number, the syndrome or exit reason"),
    ("HOST_RETRIES", host::counter::HOST_RETRIES as i64, "faults of the host while a table was being changed"),
    ("GUEST_FAULTS", host::counter::GUEST_FAULTS as i64, "exceptions given to guests"),
    ("GIB_LEAVES", host::counter::GIB_LEAVES as i64, "GiBs of RAM that the host's tables map in one piece now"),
];

const EXITS: [Row; 16] = [
    ("INTERRUPT", run::exit::INTERRUPT as i64, "a physical interrupt is pending for the host, or the vCPU was kicked"),
    ("WAIT", run::exit::WAIT as i64, "the guest waits for an interrupt; `DEADLINE` says until when at the latest"),
    ("MMIO_READ", run::exit::MMIO_READ as i64, "`SIZE` bytes at `ADDRESS`; the answer goes into `MMIO_VALUE`"),
    ("MMIO_WRITE", run::exit::MMIO_WRITE as i64, "`VALUE`, `SIZE` bytes, to `ADDRESS`"),
    (
        "MEMORY_FAULT",
        run::exit::MEMORY_FAULT as i64,
        "a page is wanted at `ADDRESS`, as shared memory when `SHARED` is 1",
    ),
    ("SYSTEM_OFF", run::exit::SYSTEM_OFF as i64, "the guest switched itself off; no vCPU will run again"),
    ("SYSTEM_RESET", run::exit::SYSTEM_RESET as i64, "the guest asked for a reset; no vCPU will run again"),
    ("CPU_ON", run::exit::CPU_ON as i64, "the guest started vCPU `VCPU`, which the host should now run"),
    ("CPU_OFF", run::exit::CPU_OFF as i64, "this vCPU is off until another one starts it"),
    ("WAKE", run::exit::WAKE as i64, "the vCPUs in `VCPU_MASK` have interrupts to take"),
    ("HOST_CALL", run::exit::HOST_CALL as i64, "RSI_HOST_CALL: `CALL_IMMEDIATE`, and 31 `CALL_REGISTERS` out and back"),
    ("FAILED", run::exit::FAILED as i64, "the guest cannot go on; `FAILURE` says why"),
    ("NEED_META", run::exit::NEED_META as i64, "a conversion needs a table page: `VM_DONATE_META` and run again"),
    ("NEED_POOL", run::exit::NEED_POOL as i64, "a conversion needs a page of the pool: `POOL_TOPUP` and run again"),
    ("IO_READ", run::exit::IO_READ as i64, "`SIZE` bytes from port `ADDRESS`; the answer goes into `MMIO_VALUE`"),
    ("IO_WRITE", run::exit::IO_WRITE as i64, "`VALUE`, `SIZE` bytes, to port `ADDRESS`"),
];

const WORDS: [Row; 11] = [
    ("MMIO_VALUE", run::MMIO_VALUE as i64, "set by the host before the run that follows `MMIO_READ`"),
    ("ADDRESS", run::ADDRESS as i64, "guest physical address, without the shared bit"),
    ("SIZE", run::SIZE as i64, "bytes: 1, 2, 4 or 8"),
    ("VALUE", run::VALUE as i64, "what is written"),
    ("SHARED", run::SHARED as i64, "1 when shared memory is wanted"),
    ("DEADLINE", run::DEADLINE as i64, "CNTVCT of the host; 2^64 - 1 for never"),
    ("VCPU_MASK", run::VCPU_MASK as i64, "bit n is vCPU n"),
    ("VCPU", run::VCPU as i64, "index"),
    ("FAILURE", run::FAILURE as i64, "see `abi::run::failure`"),
    ("CALL_IMMEDIATE", run::CALL_IMMEDIATE as i64, "16 bits"),
    ("CALL_REGISTERS", run::CALL_REGISTERS as i64, "first of 31"),
];

const PKVM: [GuestCall; 8] = [
    ("VENDOR_UID", smccc::VENDOR_UID, "", "KVM's UID", "by which Linux knows the calls below"),
    ("FEATURES", pkvm::FEATURES, "", "bitmap", "bits 0, 2, 3, 4 and 7"),
    ("HYP_MEMINFO", pkvm::HYP_MEMINFO, "0, 0, 0", "4096", "bytes of a granule"),
    (
        "MEM_SHARE",
        pkvm::MEM_SHARE,
        "IPA, 0, 0",
        "0 or -3",
        "opens a granule to the host; it arrives wiped on both sides",
    ),
    (
        "MEM_UNSHARE",
        pkvm::MEM_UNSHARE,
        "IPA, 0, 0",
        "0 or -3",
        "takes it back, wiped; refused while the host has it pinned",
    ),
    (
        "MMIO_GUARD_INFO",
        pkvm::MMIO_GUARD_INFO,
        "0, 0, 0",
        "4096",
        "granule of `MMIO_GUARD`; this and the next are the Android kernel's",
    ),
    ("MMIO_GUARD_ENROLL", pkvm::MMIO_GUARD_ENROLL, "", "0", "from now on only what `MMIO_GUARD` names is a device"),
    ("MMIO_GUARD", pkvm::MMIO_GUARD, "IPA", "0 or -3", "declares a device window: anything that is no RAM; 32 at most"),
];

const REALM: [GuestCall; 8] = [
    ("RSI_VERSION", rsi::VERSION, "version", "status, 1.0, 1.0", "refuses any version but 1.0"),
    ("RSI_FEATURES", rsi::FEATURES, "index", "status, 0", "no optional feature"),
    (
        "RSI_MEASUREMENT_READ",
        rsi::MEASUREMENT_READ,
        "index",
        "status, 8 words",
        "0 is the launch measurement, 1 to 4 are the guest's",
    ),
    (
        "RSI_MEASUREMENT_EXTEND",
        rsi::MEASUREMENT_EXTEND,
        "index, bytes, 8 words",
        "status",
        "register = SHA-384(register, data)",
    ),
    ("RSI_REALM_CONFIG", rsi::REALM_CONFIG, "page", "status", "fills a private page: address bits, hash algorithm"),
    (
        "RSI_IPA_STATE_SET",
        rsi::IPA_STATE_SET,
        "base, top, RIPAS",
        "status, next base, 0 or 1 for rejected",
        "makes a range private (RAM) or shared (EMPTY), wiped, a part for each call",
    ),
    (
        "RSI_IPA_STATE_GET",
        rsi::IPA_STATE_GET,
        "start, end",
        "status, end of the part, RIPAS",
        "all that is no RAM is EMPTY",
    ),
    ("RSI_HOST_CALL", rsi::HOST_CALL, "structure of 256 bytes", "status", "31 registers to the host and back"),
];

const COMMON: [GuestCall; 10] = [
    ("SMCCC_VERSION", smccc::VERSION, "", "1.2", ""),
    ("SMCCC_ARCH_FEATURES", smccc::ARCH_FEATURES, "function", "0 or -1", "only of these two"),
    ("PSCI_VERSION", psci::VERSION, "", "1.1", ""),
    ("PSCI_FEATURES", psci::FEATURES, "function", "0 or -1", ""),
    ("MIGRATE_INFO_TYPE", psci::MIGRATE_INFO_TYPE, "", "2", "no Trusted OS"),
    (
        "CPU_ON",
        psci::CPU_ON,
        "vCPU, entry, argument",
        "0, -2, -4, -5, -6 or -9",
        "the entry is private RAM; also as SMC32",
    ),
    ("CPU_OFF", psci::CPU_OFF, "", "", "exit to the host"),
    ("AFFINITY_INFO", psci::AFFINITY_INFO, "vCPU, 0", "0 on, 1 off, 2 pending", "also as SMC32"),
    ("SYSTEM_OFF", psci::SYSTEM_OFF, "", "", "the VM never runs again"),
    ("SYSTEM_RESET", psci::SYSTEM_RESET, "", "", "the VM never runs again; the host may build another"),
];

const TD: [GuestCall; 8] = [
    (
        "TDG.VP.VMCALL",
        leaf::VP_VMCALL,
        "RCX: mask of registers",
        "see below",
        "refuses bits 0, 1, 4 and 63:32 of the mask",
    ),
    (
        "TDG.VP.INFO",
        leaf::VP_INFO,
        "",
        "RCX: address bits; RDX: attributes; R8, R9: vCPUs",
        "the top address bit selects the shared half; SEPT_VE_DISABLE is set",
    ),
    (
        "TDG.MR.RTMR.EXTEND",
        leaf::MR_RTMR_EXTEND,
        "RCX: 48 private bytes, 64-byte aligned; RDX: 0 to 3",
        "",
        "register = SHA-384(register, data)",
    ),
    (
        "TDG.VP.VEINFO.GET",
        leaf::VP_VEINFO_GET,
        "",
        "RCX: reason; RDX: qualification; R8, R9: addresses; R10",
        "zeroes and NO_VALID_VE_INFO when there is none",
    ),
    (
        "TDG.MR.REPORT",
        leaf::MR_REPORT,
        "RCX: 1 KiB; RDX: 64 bytes; R8: 0",
        "",
        "TDREPORT_STRUCT with measurements and hashes, without authentication code",
    ),
    (
        "TDG.MEM.PAGE.ACCEPT",
        leaf::MEM_PAGE_ACCEPT,
        "RCX: address, level 0 or 1",
        "",
        "once for each time a page was made private; PAGE_ALREADY_ACCEPTED and PAGE_SIZE_MISMATCH change nothing",
    ),
    ("TDG.VM.RD", leaf::VM_RD, "RCX: 0; RDX: field", "R8: value; version 1 RDX: next field", "R8 is zero on failure"),
    (
        "TDG.VM.WR",
        leaf::VM_WR,
        "RCX: 0; RDX: field; R8: value; R9: mask",
        "R8: old value",
        "TD_CTLS, and NOTIFY_ENABLES with zero",
    ),
];

const TD_VM: [GuestCall; 11] = [
    (
        "Instruction.CPUID",
        vmcall::CPUID,
        "R12: 0x40000000 to 0x4fffffff; R13",
        "R12 to R15: 0",
        "CPUID itself never asks",
    ),
    ("Instruction.HLT", vmcall::HLT, "R12", "", "waits unless an interrupt waits"),
    ("Instruction.IO", vmcall::IO, "R12: 1, 2, 4; R13: 1 to write; R14: port; R15", "R11", "exit to the host"),
    ("Instruction.RDMSR", vmcall::RDMSR, "R12", "", "INVALID_OPERAND: RDMSR itself has all answers"),
    ("Instruction.WRMSR", vmcall::WRMSR, "R12; R13", "", "INVALID_OPERAND"),
    (
        "#VE.RequestMMIO",
        vmcall::MMIO,
        "R12: 1, 2, 4, 8; R13: 1 to write; R14: shared address outside RAM; R15",
        "R11",
        "exit to the host",
    ),
    ("GetTdVmCallInfo", vmcall::GET_INFO, "R12: 0 or 1", "R11 to R14", "bits 0 and 1 of R11 for R12 = 1"),
    (
        "MapGPA",
        vmcall::MAP_GPA,
        "R12: address, shared or not; R13: bytes",
        "R11: where to go on, or what failed",
        "wiped, a part for each call: RETRY; GPA_INUSE while the host has the page pinned",
    ),
    ("GetQuote", vmcall::GET_QUOTE, "R12: shared address; R13: bytes", "", "the buffer says that there is no service"),
    ("ReportFatalError", vmcall::REPORT_FATAL_ERROR, "R12: code; 64 bytes of text", "", "the VM never runs again"),
    (
        "SetupEventNotifyInterrupt",
        vmcall::SETUP_EVENT_NOTIFY,
        "R12: 32 to 255",
        "",
        "vector by which this vCPU hears of quotes",
    ),
];

/// The document.
pub fn render() -> String {
    let mut text = String::from(INTRODUCTION);
    text += "| number | name | arguments | results | what |\n|---|---|---|---|---|\n";
    for call in &CALLS {
        let list = |items: &[&str]| items.join("; ");
        let (arguments, results) = (list(call.arguments), list(call.results));
        row(&mut text, &[&format!("`{:#x}`", call.number), call.name, &arguments, &results, call.summary]);
    }
    text += "\n### Status\n\n";
    table(&mut text, "status", &STATUS);
    text += "\n### Words of `COUNTERS`\n\n";
    table(&mut text, "word", &COUNTERS);
    text += "\n## Exits of `VCPU_RUN`\n\nThe reason is in x1, details are words of the run page.\n\n";
    table(&mut text, "exit", &EXITS);
    text += "\n### Words of the run page\n\n";
    table(&mut text, "word", &WORDS);
    text += "\n## Guest calls by SMCCC\n\nThe function goes in w0 with bit 16 masked, arguments in x1 and following; results come back \
             in x0 and following, x1 to x3\nare zero where there are none. Everything else answers -1 in x0.\n";
    guest(&mut text, "Dialect `pkvm`, by HVC #0", &PKVM);
    guest(&mut text, "Dialect `realm`, by SMC #0 (HVC is undefined)", &REALM);
    guest(&mut text, "Both dialects", &COMMON);
    text += "\n## Guest calls of a TD\n\nDialect `tdx`, by TDCALL: the leaf goes in RAX, a completion status comes back there, and registers \
             that are not named keep what\nthey hold. Any other leaf answers OPERAND_INVALID. A TDVMCALL has the sub-function \
             in R11 and zero in R10, where its status comes\nback: INVALID_OPERAND, ALIGN_ERROR, or SUBFUNC_UNSUPPORTED for any \
             other sub-function. Registers outside the mask read as zero.\n";
    guest(&mut text, "TDCALL", &TD);
    guest(&mut text, "TDVMCALL", &TD_VM);
    text
}

fn row(text: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn table(text: &mut String, what: &str, rows: &[Row]) {
    let _ = writeln!(text, "| {what} | name | meaning |\n|---|---|---|");
    for (name, number, meaning) in rows {
        row(text, &[&number.to_string(), &format!("`{name}`"), meaning]);
    }
}

fn guest(text: &mut String, title: &str, calls: &[GuestCall]) {
    let _ = writeln!(text, "\n### {title}\n\n| function | name | arguments | results | what |\n|---|---|---|---|---|");
    for (name, number, arguments, results, what) in calls {
        row(text, &[&format!("`{number:#x}`"), name, arguments, results, what]);
    }
}
