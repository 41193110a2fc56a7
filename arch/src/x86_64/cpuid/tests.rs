use super::*;

/// With the features of the CPU in question.
fn guest(reader: &Reader, function: u32, index: u32, native: &impl Fn(u32, u32) -> Leaf) -> Leaf {
    super::guest(&Reader { features: extended_features(native), ..*reader }, function, index, native)
}

/// A CPU that has everything, and more than there is.
fn everything(function: u32, index: u32) -> Leaf {
    match (function, index) {
        (4, 0) => leaf(0xfc00_4121, 1, 2, 3),
        (4, 3) => leaf(0xfc00_4163, 1, 2, 3),
        (4, _) => Leaf::default(),
        (0xd, 2) => leaf(256, 576, 0, 0),
        (0xd, 5) => leaf(64, 1088, 0, 0),
        (0xd, 6) => leaf(512, 1152, 0, 0),
        (0xd, 7) => leaf(1024, 1664, 0b10, 0),
        (0xd, 17..=18) => leaf(8192, 2752, 0b10, 0),
        (0x8000_0008, _) => leaf(0x3934, u32::MAX, u32::MAX, u32::MAX),
        _ => leaf(u32::MAX, u32::MAX, u32::MAX, u32::MAX),
    }
}

/// Only what a 64-bit CPU must have, without XSAVE.
fn little(function: u32, _: u32) -> Leaf {
    match function {
        0x8000_0008 => leaf(0x3028, 0, 0, 0),
        _ => Leaf::default(),
    }
}

const READER: Reader =
    Reader { index: 2, count: 3, frequency: 2_000_000_000, osxsave: false, xcr0: 1, features: 0, long: true };

fn ask(function: u32, index: u32) -> Leaf {
    guest(&READER, function, index, &everything)
}

fn text(words: [u32; 3]) -> [u8; 12] {
    let mut text = [0; 12];
    text.chunks_mut(4).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
    text
}

#[test]
fn signatures() {
    let vendor = ask(0, 0);
    assert_eq!((vendor.eax, &text([vendor.ebx, vendor.edx, vendor.ecx])), (0x21, b"GenuineIntel"));
    let tdx = ask(0x21, 0);
    assert_eq!((tdx.eax, &text([tdx.ebx, tdx.edx, tdx.ecx])), (0, b"IntelTDX    "));
    assert_eq!((tdx.ebx, tdx.edx, tdx.ecx), (0x6574_6e49, 0x5844_546c, 0x2020_2020));
    let hypervisor = ask(0x4000_0000, 0);
    assert_eq!(&text([hypervisor.ebx, hypervisor.ecx, hypervisor.edx]), b"KVMKVMKVM\0\0\0");
    assert_eq!(ask(0x4000_0001, 0), Leaf::default());
}

#[test]
fn leaf_1_forces_and_hides() {
    let shown = ask(1, 0);
    for bit in [21, 24, 30, 31] {
        assert_ne!(shown.ecx & 1 << bit, 0, "{bit}");
    }
    for bit in [2, 3, 4, 5, 6, 7, 8, 10, 11, 14, 15, 16, 18, 27] {
        assert_eq!(shown.ecx & 1 << bit, 0, "{bit}");
    }
    for bit in [7, 12, 14, 18, 21, 22, 29, 31] {
        assert_eq!(shown.edx & 1 << bit, 0, "{bit}");
    }
    assert_eq!(shown.ebx, 2 << 24 | 3 << 16 | 0xff00);
    assert_ne!(guest(&Reader { osxsave: true, ..READER }, 1, 0, &everything).ecx & OSXSAVE, 0);
    assert_eq!(guest(&Reader { count: 1, ..READER }, 1, 0, &everything).edx & HTT, 0);
    let small = guest(&READER, 1, 0, &little);
    assert_eq!(small.ecx, LEAF1_ECX_FORCED, "nothing else that the CPU has not");
    let without_avx = |function, index| if function == 0xd { leaf(3, 0, 0, 0) } else { everything(function, index) };
    assert_eq!(guest(&READER, 1, 0, &without_avx).ecx & bits([12, 28, 29]), 0);
}

#[test]
fn leaf_7_hides_what_needs_controls() {
    let shown = ask(7, 0);
    assert_eq!(shown.eax, 2);
    // TSC_ADJUST, SGX, HLE, RTM, PQM, MPX, PQE, Processor Trace.
    assert_eq!(shown.ebx & bits([1, 2, 4, 11, 12, 14, 15, 22, 25]), 0);
    // PKU, OSPKE, WAITPKG, CET, TME, LA57, key locker, bus lock, ENQCMD, PKS.
    assert_eq!(shown.ecx & bits([3, 4, 5, 7, 13, 16, 23, 24, 29, 30, 31]), 0);
    // UINTR, AMX, CET, core capabilities.
    assert_eq!(shown.edx & bits([5, 20, 22, 24, 25, 30, 28, 15, 18, 19]), 0);
    assert_ne!(shown.edx & ARCH_CAPABILITIES, 0);
    assert_eq!(guest(&READER, 7, 0, &little), leaf(0, 0, 0, ARCH_CAPABILITIES));
    // FRED and LKGS.
    assert_eq!(ask(7, 1).eax & bits([17, 18]), 0);
    assert_eq!(ask(7, 2), leaf(0, 0, 0, 0x3f));
    assert_eq!(ask(7, 3), Leaf::default());
    // A CPU answers for a subleaf that it has not with whatever it likes.
    let no_subleaves = |function, index| match (function, index) {
        (7, 0) => leaf(0, 0, 0, 0),
        (7, _) => leaf(u32::MAX, u32::MAX, u32::MAX, u32::MAX),
        _ => everything(function, index),
    };
    assert_eq!(guest(&READER, 7, 1, &no_subleaves), Leaf::default());
}

#[test]
fn a_guest_is_told_of_no_bit_of_a_register_that_it_has_not() {
    let without = |function, index| match (function, index) {
        (7, 0) => leaf(2, 0, 0, !(1 << 26)),
        _ => everything(function, index),
    };
    assert_eq!(guest(&READER, 7, 0, &without).edx & bits([26, 27, 31]), 0, "STIBP, SSBD");
    assert_eq!(guest(&READER, 7, 2, &without).edx & 0b1_1111, 0, "the controls of leaf 7.2");
}

#[test]
fn avx512_goes_with_its_state() {
    let without =
        |function, index| if (function, index) == (0xd, 0) { leaf(0x67, 0, 0, 0) } else { everything(function, index) };
    assert_eq!(extended_features(&without), 0b111);
    let shown = guest(&READER, 7, 0, &without);
    assert_eq!(shown.ebx & LEAF7_EBX_AVX512, 0);
    assert_eq!((shown.ecx & LEAF7_ECX_AVX512, shown.edx & LEAF7_EDX_AVX512), (0, 0));
    assert_ne!(shown.ebx & 1 << 5, 0, "AVX2 stays");
    assert_eq!(guest(&READER, 0xd, 5, &without), Leaf::default());
    let neither =
        |function, index| if (function, index) == (0xd, 0) { leaf(3, 0, 0, 0) } else { everything(function, index) };
    assert_eq!(guest(&READER, 7, 0, &neither).ebx & 1 << 5, 0);
    assert_eq!(guest(&READER, 7, 0, &neither).ecx & bits([9, 10]), 0);
}

#[test]
fn extended_state_is_limited_and_sized() {
    let all = XCR0_BASE | XCR0_AVX | XCR0_AVX512;
    assert_eq!(extended_features(&everything), all);
    assert_eq!(extended_features(&little), XCR0_BASE);
    assert_eq!(ask(0xd, 0), leaf(all as u32, 576, 2688, 0));
    let sizes = [(0b11, 576, 576), (0b111, 832, 832), (all, 2688, 2432)];
    for (xcr0, standard, compact) in sizes {
        let reader = Reader { xcr0, ..READER };
        assert_eq!(guest(&reader, 0xd, 0, &everything).ebx, standard);
        assert_eq!(guest(&reader, 0xd, 1, &everything), leaf(0b1111, compact, 0, 0));
    }
    assert_eq!(ask(0xd, 2), leaf(256, 576, 0, 0));
    // Protection keys, AMX, and numbers beyond the mask.
    for index in [8, 9, 11, 17, 18, 19, 63, 64, u32::MAX] {
        assert_eq!(ask(0xd, index), Leaf::default());
    }
}

#[test]
fn topology_is_flat() {
    for function in [0xb, 0x1f] {
        assert_eq!(ask(function, 0), leaf(0, 1, 0x100, 2));
        assert_eq!(ask(function, 1), leaf(2, 3, 0x201, 2));
        assert_eq!(ask(function, 7), leaf(0, 0, 7, 2));
    }
    assert_eq!(guest(&Reader { count: 1, index: 0, ..READER }, 0xb, 1, &everything), leaf(0, 1, 0x201, 0));
    assert_eq!(ask(4, 0).eax, 0x121 | 3 << 26);
    assert_eq!(ask(4, 3).eax, 0x163 | 3 << 14 | 3 << 26);
    assert_eq!(ask(4, 9), Leaf::default());
}

#[test]
fn the_frequency_comes_out_again() {
    assert_eq!(clock(2_000_000_000), [1, 80, 25_000_000]);
    for frequency in
        [1, 130_000_000, 999_999_937, 2_499_999_999, 4_294_967_295, 4_294_967_297, 5_300_000_001, 6_000_000_000]
    {
        let [denominator, numerator, crystal] = clock(frequency).map(u64::from);
        let told = crystal * numerator / denominator;
        assert!(frequency - told <= numerator, "{frequency}: {told}");
        assert!(crystal != 0 && numerator != 0);
    }
    assert_eq!(clock(0)[0], 1, "nonsense, but no panic");
    assert_eq!(ask(0x15, 0), leaf(1, 80, 25_000_000, 0));
    assert_eq!(ask(0x16, 0), leaf(2000, 2000, 0, 0));
}

#[test]
fn extended_leaves() {
    assert_eq!(ask(0x8000_0000, 0).eax, 0x8000_0008);
    assert_eq!(ask(0x8000_0001, 0).edx, bits([11, 20, 26, 27, 29]));
    assert_eq!(guest(&Reader { long: false, ..READER }, 0x8000_0001, 0, &everything).edx & SYSCALL, 0);
    assert_eq!(ask(0x8000_0007, 0), leaf(0, 0, 0, 1 << 8));
    assert_eq!(ask(0x8000_0008, 0), leaf(0x3034, 0, 0, 0));
    assert_eq!(guest(&READER, 0x8000_0008, 0, &little), leaf(0x3028, 0, 0, 0));
}

#[test]
fn everything_else_is_zero() {
    let hidden = [3, 5, 8, 9, 0xa, 0xc, 0xe, 0xf, 0x10, 0x12, 0x14, 0x17, 0x19, 0x1a, 0x1c, 0x1d, 0x20, 0x22, 0x24];
    let ranges = [0x3fff_ffff, 0x4000_0002, 0x4000_0100, 0x4fff_ffff, 0x8000_0005, 0x8000_0009, 0x8000_001f, u32::MAX];
    for function in hidden.into_iter().chain(ranges) {
        assert_eq!(ask(function, 0), Leaf::default(), "{function:#x}");
    }
}
