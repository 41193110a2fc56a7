//! The SVE registers (Arm ARM B1.2.2), which compiled code here never touches, at every vector length there is.

use core::arch::{asm, global_asm};

/// Bytes of the longest vector that the architecture knows.
const LONGEST: usize = 256;
/// Words of Z0 to Z31, then of P0 to P15 and FFR, at the longest length.
const Z_WORDS: usize = 32 * LONGEST / 8;
const P_WORDS: usize = 17 * LONGEST / 64;

/// All registers. Shorter vectors fill the beginning of each part.
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    z: [u64; Z_WORDS],
    p: [u64; P_WORDS],
}

global_asm!(
    r#"
    .section .text.sve, "ax"
    .arch_extension sve
    .global payload_load_sve
payload_load_sve:
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    ldr     z\n, [x0, #\n, mul vl]
    .endr
    ldr     p0, [x1, #16, mul vl]
    wrffr   p0.b
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    ldr     p\n, [x1, #\n, mul vl]
    .endr
    ret
    .global payload_store_sve
payload_store_sve:
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    str     z\n, [x0, #\n, mul vl]
    .endr
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    str     p\n, [x1, #\n, mul vl]
    .endr
    rdffr   p0.b
    str     p0, [x1, #16, mul vl]
    ret
    .global payload_sve_bytes
payload_sve_bytes:
    rdvl    x0, #1
    ret
    .arch_extension nosve
    "#,
);

unsafe extern "C" {
    fn payload_load_sve(z: *const u64, p: *const u64);
    fn payload_store_sve(z: *mut u64, p: *mut u64);
    fn payload_sve_bytes() -> usize;
}

/// Whether there is SVE (ID_AA64PFR0_EL1).
pub fn is_present() -> bool {
    let features: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {0}, id_aa64pfr0_el1", out(reg) features, options(nomem, nostack)) };
    features >> 32 & 0xf != 0
}

/// Lets EL1 use SVE (CPACR_EL1.ZEN) with vectors of at most `wanted` times 16 bytes, and says how many bytes it gets. Only
/// with [`is_present`].
pub fn set_length(wanted: u64) -> usize {
    // SAFETY: EL1's own controls; nothing compiled depends on the length.
    unsafe {
        asm!(
            "msr cpacr_el1, {access}", "isb", "msr s3_0_c1_c2_0, {length}", "isb", // ZCR_EL1
            access = in(reg) 3u64 << 20 | 3 << 16, length = in(reg) wanted.clamp(1, 16) - 1, options(nostack)
        );
        payload_sve_bytes()
    }
}

impl State {
    /// A pattern for vectors of `bytes`, without two words alike. FFR has its first bits set: others it cannot have.
    pub fn pattern(seed: u64, bytes: usize) -> Self {
        let mut state = Self { z: [0; Z_WORDS], p: [0; P_WORDS] };
        let words: [u64; Z_WORDS] = crate::pattern(seed);
        state.z[..4 * bytes].copy_from_slice(&words[..4 * bytes]);
        let (predicates, bits) = (bytes * 16 / 64, bytes as u64);
        state.p[..predicates].copy_from_slice(&words[..predicates]);
        for bit in 0..1 + seed % bits {
            let at = predicates as u64 * 64 + bit;
            state.p[at as usize / 64] |= 1 << (at % 64);
        }
        state
    }

    /// Fills the registers.
    pub fn load(&self) {
        // SAFETY: compiled code does not use the registers, and the arrays hold the longest ones.
        unsafe { payload_load_sve(self.z.as_ptr(), self.p.as_ptr()) };
    }

    /// Reads the registers.
    pub fn store() -> Self {
        let mut state = Self { z: [0; Z_WORDS], p: [0; P_WORDS] };
        // SAFETY: as above.
        unsafe { payload_store_sve(state.z.as_mut_ptr(), state.p.as_mut_ptr()) };
        state
    }

    /// Which of Z and P/FFR differ.
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        match (self.z == other.z, self.p == other.p) {
            (true, true) => None,
            (false, true) => Some("Z"),
            (true, false) => Some("P or FFR"),
            (false, false) => Some("Z, and P or FFR"),
        }
    }
}
