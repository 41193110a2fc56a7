//! System registers by name, for the many that no crate has typed; the names are those of the Arm ARM (DDI 0487), the
//! encodings of newer ones are given where the assembler does not know them.

/// Reads a system register.
macro_rules! mrs {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: reading a system register that exists on every ARMv8-A CPU with EL2 changes no memory.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }};
}

/// Writes a system register. Ordering against other instructions needs [`isb`].
macro_rules! msr {
    ($name:expr, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the caller writes an EL1 or EL2 register of this CPU in the order the Arm ARM asks for; Postern's own
        // code and data stay mapped as they are, which every call site's comment or context shows.
        unsafe { core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
    }};
}

/// Executes one instruction without operands: barriers, TLB and cache maintenance of everything.
macro_rules! instruction {
    ($text:expr) => {
        // SAFETY: barriers and whole-TLB maintenance change no memory that Rust knows of.
        unsafe { core::arch::asm!($text, options(nostack, preserves_flags)) }
    };
    ($text:expr, $operand:expr) => {{
        let operand: u64 = $operand;
        // SAFETY: TLB maintenance by address, and cache maintenance that cleans, change no memory that Rust knows of.
        unsafe { core::arch::asm!($text, in(reg) operand, options(nostack, preserves_flags)) }
    }};
}

pub(crate) use {instruction, mrs, msr};

/// Instruction synchronisation barrier: later instructions see earlier system register writes.
#[inline(always)]
pub fn isb() {
    instruction!("isb");
}

/// A field of an ID register: `width` bits from `shift`.
pub const fn field(value: u64, shift: u32, width: u32) -> u64 {
    (value >> shift) & ((1 << width) - 1)
}
