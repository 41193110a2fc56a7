//! CPUID as a guest sees it: the CPU's, without what Postern neither switches nor lets through, and with what makes it a
//! TDX guest (Intel SDM volume 2, "CPUID"; the TDX module's base specification, "CPUID Virtualization").
//!
//! Everything is a list of what is shown, so a feature of tomorrow stays hidden until somebody has thought about it.

/// The four registers that CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

const fn leaf(eax: u32, ebx: u32, ecx: u32, edx: u32) -> Leaf {
    Leaf { eax, ebx, ecx, edx }
}

/// What the answer depends on besides the CPU.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// Number of the vCPU, also its x2APIC ID.
    pub index: u32,
    /// vCPUs of the VM.
    pub count: u32,
    /// Ticks of the TSC in a second.
    pub frequency: u64,
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// XCR0.
    pub xcr0: u64,
    /// What it can be: [`extended_features`].
    pub features: u64,
    /// In 64-bit mode.
    pub long: bool,
}

/// Highest basic leaf: the one that says TDX.
const MAX_BASIC: u32 = 0x21;
/// Highest extended leaf.
const MAX_EXTENDED: u32 = 0x8000_0008;
/// Widest linear address: four levels.
const LINEAR_BITS: u32 = 48;

/// XCR0 bits: x87 and SSE, AVX, and AVX-512's three, which come together (SDM volume 1, "XCR0").
pub const XCR0_BASE: u64 = 0b11;
/// See [`XCR0_BASE`].
pub const XCR0_AVX: u64 = 1 << 2;
/// See [`XCR0_BASE`].
pub const XCR0_AVX512: u64 = 0b111 << 5;

/// A mask of these bits.
const fn bits<const N: usize>(numbers: [u32; N]) -> u32 {
    let mut mask = 0;
    let mut index = 0;
    while index < N {
        mask |= 1 << numbers[index];
        index += 1;
    }
    mask
}

/// Leaf 1 ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, PCID, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C,
/// RDRAND. Not MONITOR, VMX, SMX, performance monitoring.
const LEAF1_ECX: u32 = bits([0, 1, 9, 12, 13, 17, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
/// x2APIC, TSC deadline, hypervisor.
const LEAF1_ECX_FORCED: u32 = bits([21, 24, 31]);
const OSXSAVE: u32 = 1 << 27;
/// Leaf 1 EDX: FPU, VME, DE, PSE, TSC, MSR, PAE, CMPXCHG8B, APIC, SYSENTER, PGE, CMOV, PAT, PSE-36, CLFLUSH, MMX, FXSR,
/// SSE, SSE2, self snoop. Not machine checks and MTRRs, whose registers a guest has not.
const LEAF1_EDX: u32 = bits([0, 1, 2, 3, 4, 5, 6, 8, 9, 11, 13, 15, 16, 17, 19, 23, 24, 25, 26, 27]);
const HTT: u32 = 1 << 28;
/// Leaf 7 EBX: FSGSBASE, BMI1, AVX2, FDP_EXCPTN_ONLY, SMEP, BMI2, ERMS, INVPCID, FCS and FDS, RDSEED, ADX, SMAP,
/// CLFLUSHOPT, CLWB, SHA. Not TSC_ADJUST, SGX, TSX, MPX, Processor Trace.
const LEAF7_EBX: u32 = bits([0, 3, 5, 6, 7, 8, 9, 10, 13, 18, 19, 20, 23, 24, 29]);
/// Of AVX-512: F, DQ, IFMA, PF, ER, CD, BW, VL.
const LEAF7_EBX_AVX512: u32 = bits([16, 17, 21, 26, 27, 28, 30, 31]);
/// Leaf 7 ECX: UMIP, GFNI, VAES, VPCLMULQDQ, RDPID, CLDEMOTE, MOVDIRI, MOVDIR64B. Not protection keys, WAITPKG, CET,
/// five-level paging.
const LEAF7_ECX: u32 = bits([2, 8, 9, 10, 22, 25, 27, 28]);
/// Of AVX-512: VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ.
const LEAF7_ECX_AVX512: u32 = bits([1, 6, 11, 12, 14]);
/// Leaf 7 EDX: fast short REP MOV, MD_CLEAR, SERIALIZE, IBRS and IBPB, STIBP, SSBD.
const LEAF7_EDX: u32 = bits([4, 10, 14, 26, 27, 31]);
const IBRS_IBPB: u32 = 1 << 26;
/// Of leaves 7 and 7.2, bits of IA32_SPEC_CTRL.
const LEAF7_CONTROL: u32 = bits([26, 27, 31]);
const LEAF7_2_CONTROL: u32 = 0b1_1111;
/// Of AVX-512: 4VNNIW, 4FMAPS, VP2INTERSECT, FP16.
const LEAF7_EDX_AVX512: u32 = bits([2, 3, 8, 23]);
/// IA32_ARCH_CAPABILITIES, in which a guest reads that its x2APIC cannot be left.
const ARCH_CAPABILITIES: u32 = 1 << 29;
/// Leaf 7.1 EAX: AVX-VNNI, and fast forms of REP.
const LEAF7_1_EAX: u32 = bits([4, 10, 11, 12]);
/// Of AVX-512: BF16.
const LEAF7_1_EAX_AVX512: u32 = 1 << 5;
/// Leaf 7.2 EDX: the controls in IA32_SPEC_CTRL, which a guest has for itself, and MCDT_NO.
const LEAF7_2_EDX: u32 = 0b11_1111;
/// Leaf 0xD.1 EAX: XSAVEOPT, XSAVEC, XGETBV 1, XSAVES.
const LEAFD_1_EAX: u32 = 0b1111;
/// Extended leaf 1 ECX: LAHF in 64-bit mode, LZCNT, PREFETCHW.
const EXTENDED_ECX: u32 = bits([0, 5, 8]);
/// Extended leaf 1 EDX: NX, gigabyte pages, RDTSCP, long mode.
const EXTENDED_EDX: u32 = bits([20, 26, 27, 29]);
const SYSCALL: u32 = 1 << 11;
/// Always running APIC timer.
const ARAT: u32 = 1 << 2;
const INVARIANT_TSC: u32 = 1 << 8;

/// Which parts of the extended state a guest can have, for XCR0.
pub fn extended_features(native: &impl Fn(u32, u32) -> Leaf) -> u64 {
    let present = native(0xd, 0).eax & if native(1, 0).ecx & 1 << 26 != 0 { u32::MAX } else { 0 };
    let present = u64::from(present);
    let mut features = XCR0_BASE;
    if present & XCR0_AVX != 0 {
        features |= XCR0_AVX;
        if present & XCR0_AVX512 == XCR0_AVX512 {
            features |= XCR0_AVX512;
        }
    }
    features
}

/// How leaf 0x15 says the frequency: denominator, numerator, ticks of the crystal in a second. The APIC's timer counts
/// the crystal's.
pub fn clock(frequency: u64) -> [u32; 3] {
    /// What the TDX module gives every guest.
    const CRYSTAL: u64 = 25_000_000;
    let ratio =
        if frequency != 0 && frequency.is_multiple_of(CRYSTAL) { frequency / CRYSTAL } else { 1 + (frequency >> 32) };
    [1, ratio as u32, (frequency / ratio) as u32]
}

/// CPUID with these EAX and ECX.
pub fn guest(reader: &Reader, function: u32, index: u32, native: &impl Fn(u32, u32) -> Leaf) -> Leaf {
    let features = reader.features;
    match function {
        0 => leaf(MAX_BASIC, u32::from_le_bytes(*b"Genu"), u32::from_le_bytes(*b"ntel"), u32::from_le_bytes(*b"ineI")),
        1 => version(reader, &native(1, 0), features),
        // Caches and TLBs, as descriptors.
        2 => native(2, 0),
        4 => caches(reader, native(4, index)),
        6 => leaf(ARAT, 0, 0, 0),
        7 => structured(index, native, features),
        0xb | 0x1f => topology(reader, index),
        0xd => extended_state(reader, index, native, features),
        0x15 => {
            let [denominator, numerator, crystal] = clock(reader.frequency);
            leaf(denominator, numerator, crystal, 0)
        }
        // Base and highest frequency in MHz: without, Linux asks a timer that a guest has not.
        0x16 => {
            let megahertz = ((reader.frequency + 500_000) / 1_000_000) as u32;
            leaf(megahertz, megahertz, 0, 0)
        }
        0x21 => leaf(0, u32::from_le_bytes(*b"Inte"), u32::from_le_bytes(*b"    "), u32::from_le_bytes(*b"lTDX")),
        // Linux keeps x2APIC without interrupt remapping for hypervisors that it knows. KVM, then, with no features.
        0x4000_0000 => leaf(
            0x4000_0001,
            u32::from_le_bytes(*b"KVMK"),
            u32::from_le_bytes(*b"VMKV"),
            u32::from_le_bytes(*b"M\0\0\0"),
        ),
        0x8000_0000 => leaf(MAX_EXTENDED, 0, 0, 0),
        0x8000_0001 => {
            let native = native(function, 0);
            // The bit comes and goes with the mode.
            let syscall = if reader.long { SYSCALL } else { 0 };
            leaf(native.eax, 0, native.ecx & EXTENDED_ECX, native.edx & (EXTENDED_EDX | syscall))
        }
        // The name, and the level 2 cache.
        0x8000_0002..=0x8000_0004 | 0x8000_0006 => native(function, 0),
        0x8000_0007 => leaf(0, 0, 0, native(function, 0).edx & INVARIANT_TSC),
        0x8000_0008 => leaf(native(function, 0).eax & 0xff | LINEAR_BITS << 8, 0, 0, 0),
        _ => Leaf::default(),
    }
}

fn version(reader: &Reader, native: &Leaf, features: u64) -> Leaf {
    let cache_line = native.ebx & 0xff00;
    let ebx = reader.index << 24 | (reader.count & 0xff) << 16 | cache_line;
    let mut ecx = native.ecx & LEAF1_ECX | LEAF1_ECX_FORCED;
    if features & XCR0_AVX == 0 {
        // FMA, AVX, F16C.
        ecx &= !bits([12, 28, 29]);
    }
    if reader.osxsave {
        ecx |= OSXSAVE;
    }
    let threads = if reader.count > 1 { HTT } else { 0 };
    leaf(native.eax, ebx, ecx, native.edx & LEAF1_EDX | threads)
}

/// Levels 1 and 2 belong to one vCPU, the rest to all.
fn caches(reader: &Reader, native: Leaf) -> Leaf {
    if native.eax & 0x1f == 0 {
        return Leaf::default();
    }
    let ids = reader.count.max(1).next_power_of_two() - 1;
    let sharing = if native.eax >> 5 & 0b111 < 3 { 0 } else { ids };
    let eax = native.eax & 0x3fff | sharing << 14 | ids.min(63) << 26;
    Leaf { eax, ..native }
}

fn structured(index: u32, native: &impl Fn(u32, u32) -> Leaf, features: u64) -> Leaf {
    let wide = if features & XCR0_AVX512 == XCR0_AVX512 { u32::MAX } else { 0 };
    // AVX2; VAES and VPCLMULQDQ; AVX-VNNI.
    let avx = if features & XCR0_AVX != 0 { u32::MAX } else { 0 };
    let main = native(7, 0);
    // Only with the register, which a guest has by the first of them (`world`).
    let control = if main.edx & IBRS_IBPB != 0 { u32::MAX } else { 0 };
    let shown = |subleaf| if subleaf <= main.eax { native(7, subleaf) } else { Leaf::default() };
    match index {
        0 => leaf(
            main.eax.min(2),
            main.ebx & (LEAF7_EBX & (avx | !(1 << 5)) | LEAF7_EBX_AVX512 & wide),
            main.ecx & (LEAF7_ECX & (avx | !bits([9, 10])) | LEAF7_ECX_AVX512 & wide),
            main.edx & (LEAF7_EDX & (control | !LEAF7_CONTROL) | LEAF7_EDX_AVX512 & wide) | ARCH_CAPABILITIES,
        ),
        1 => leaf(shown(1).eax & (LEAF7_1_EAX & (avx | !(1 << 4)) | LEAF7_1_EAX_AVX512 & wide), 0, 0, 0),
        2 => leaf(0, 0, 0, shown(2).edx & LEAF7_2_EDX & (control | !LEAF7_2_CONTROL)),
        _ => Leaf::default(),
    }
}

/// One thread for each core, and all cores in one package.
fn topology(reader: &Reader, index: u32) -> Leaf {
    const THREAD: u32 = 1 << 8;
    const CORE: u32 = 2 << 8;
    let shift = reader.count.max(1).next_power_of_two().ilog2();
    match index {
        0 => leaf(0, 1, THREAD, reader.index),
        1 => leaf(shift, reader.count, CORE | 1, reader.index),
        _ => leaf(0, 0, index & 0xff, reader.index),
    }
}

/// Legacy region and header of an XSAVE area in bytes.
const XSAVE_HEADER: u32 = 576;

fn extended_state(reader: &Reader, index: u32, native: &impl Fn(u32, u32) -> Leaf, features: u64) -> Leaf {
    match index {
        0 => {
            let size = |features| standard_size(features, native);
            leaf(features as u32, size(reader.xcr0 & features), size(features), (features >> 32) as u32)
        }
        1 => {
            let eax = native(0xd, 1).eax & LEAFD_1_EAX;
            leaf(eax, if eax & 0b1010 == 0 { 0 } else { compact_size(reader.xcr0 & features, native) }, 0, 0)
        }
        2..63 if features >> index & 1 != 0 => native(0xd, index),
        _ => Leaf::default(),
    }
}

/// Bytes of an XSAVE area in the standard format (SDM volume 1, "Extended Region of an XSAVE Area").
pub fn standard_size(features: u64, native: &impl Fn(u32, u32) -> Leaf) -> u32 {
    parts(features).map(|n| native(0xd, n)).fold(XSAVE_HEADER, |size, part| size.max(part.ebx.saturating_add(part.eax)))
}

/// The same in the compacted format, where a part may want to begin at a multiple of 64.
fn compact_size(features: u64, native: &impl Fn(u32, u32) -> Leaf) -> u32 {
    parts(features).map(|n| native(0xd, n)).fold(XSAVE_HEADER, |size, part| {
        let start = if part.ecx & 0b10 != 0 { size.saturating_add(63) & !63 } else { size };
        start.saturating_add(part.eax)
    })
}

fn parts(features: u64) -> impl Iterator<Item = u32> {
    (2..63).filter(move |n| features >> n & 1 != 0)
}

#[cfg(test)]
mod tests;
