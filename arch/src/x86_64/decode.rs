//! The few instructions by which an operating system reaches its memory-mapped APIC (SDM volume 3, "APIC Register Address
//! Map": loads and stores of 32 bits), in 64-bit mode (SDM volume 2, "Instruction Format"). Pure.
//!
//! Where the operand is, hardware has said; this only tells what moves where and how long the instruction is. It is read after
//! it has faulted, so it may be another one by now: whoever changes it confuses nobody but himself.

/// What is moved. Registers by hardware's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Memory to register.
    Load(usize),
    /// Register to memory.
    Store(usize),
    /// A constant to memory.
    Constant(u32),
    /// Both ways at once: Linux writes so on CPUs with an old erratum.
    Exchange(usize),
}

/// Most bytes of an instruction.
pub const LONGEST: usize = 15;

/// A move of 32 bits between a register and memory, and the bytes of the instruction; `None` for all else, and for one that
/// `bytes` does not hold whole.
pub fn decode(bytes: &[u8]) -> Option<(Move, usize)> {
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    let prefix = |byte: &&u8| matches!(**byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x67);
    let prefixes = bytes.iter().take_while(prefix).count();
    let short_address = bytes[..prefixes].contains(&0x67);
    let mut at = prefixes;
    let mut next = |size: usize| {
        at += size;
        bytes.get(at - size..at)
    };
    let mut opcode = next(1)?[0];
    let mut rex = 0;
    if opcode & 0xf0 == 0x40 {
        rex = opcode;
        opcode = next(1)?[0];
    }
    // REX.W: 64 bits. Other sizes have other opcodes, or a prefix that is not among those above.
    if rex & 8 != 0 {
        return None;
    }
    if let 0xa1 | 0xa3 = opcode {
        // EAX, and the address itself.
        next(if short_address { 4 } else { 8 })?;
        return Some((if opcode == 0xa1 { Move::Load(0) } else { Move::Store(0) }, at));
    }
    if !matches!(opcode, 0x87 | 0x89 | 0x8b | 0xc7) {
        return None;
    }
    let operands = next(1)?[0];
    let (mode, field, base) = (operands >> 6, operands >> 3 & 7, operands & 7);
    let base = if mode != 3 && base == 4 { next(1)?[0] & 7 } else { base };
    match mode {
        0 if base == 5 => next(4)?,
        1 => next(1)?,
        2 => next(4)?,
        3 => return None,
        _ => &[],
    };
    let register = usize::from(field | (rex & 4) << 1);
    let what = match opcode {
        0x87 => Move::Exchange(register),
        0x89 => Move::Store(register),
        0x8b => Move::Load(register),
        _ if field == 0 => Move::Constant(u32::from_le_bytes(*next(4)?.first_chunk()?)),
        _ => return None,
    };
    Some((what, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_of_every_form() {
        for (bytes, what) in [
            // mov [rax], ecx; mov eax, [rdi + 0x300]; mov [rbx + 8], r9d; mov r15d, [r8].
            (&[0x89, 0x08][..], Move::Store(1)),
            (&[0x8b, 0x87, 0, 3, 0, 0], Move::Load(0)),
            (&[0x44, 0x89, 0x4b, 8], Move::Store(9)),
            (&[0x45, 0x8b, 0x38], Move::Load(15)),
            // mov eax, [rip + 0x10]; mov [0xff5fd300], eax by SIB; mov dword ptr [rsp + rcx*4], 5.
            (&[0x8b, 0x05, 0x10, 0, 0, 0], Move::Load(0)),
            (&[0x89, 0x04, 0x25, 0, 0xd3, 0x5f, 0xff], Move::Store(0)),
            (&[0xc7, 0x04, 0x8c, 5, 0, 0, 0], Move::Constant(5)),
            (&[0xc7, 0x84, 0x8c, 0, 0, 0, 1, 0x78, 0x56, 0x34, 0x12], Move::Constant(0x1234_5678)),
            (&[0xc7, 0x05, 0, 0, 0, 1, 0x78, 0x56, 0x34, 0x12], Move::Constant(0x1234_5678)),
            // r13 as base with mode 0 is no base, as rbp is none; r12 takes a SIB byte as rsp does.
            (&[0x41, 0x89, 0x45, 0], Move::Store(0)),
            (&[0x41, 0x89, 0x04, 0x24], Move::Store(0)),
            // xchg [rdi], eax; mov eax, ds:[...]; the same with a short address; gs:.
            (&[0x87, 0x07], Move::Exchange(0)),
            (&[0xa1, 0, 0, 0xe0, 0xfe, 0, 0, 0, 0], Move::Load(0)),
            (&[0x67, 0xa3, 0, 3, 0xe0, 0xfe], Move::Store(0)),
            (&[0x65, 0x89, 0x08], Move::Store(1)),
        ] {
            assert_eq!(decode(bytes), Some((what, bytes.len())), "{bytes:x?}");
            let mut longer = bytes.to_vec();
            longer.extend([0xcc; 15]);
            assert_eq!(decode(&longer), Some((what, bytes.len())), "{bytes:x?} and more");
            for cut in 0..bytes.len() {
                assert_eq!(decode(&bytes[..cut]), None, "{bytes:x?} cut to {cut}");
            }
        }
    }

    #[test]
    fn all_else_is_refused() {
        for bytes in [
            // Bytes, 16 bits, 64 bits.
            &[0x88, 0x08, 0, 0][..],
            &[0x8a, 0x08, 0, 0],
            &[0x66, 0x89, 0x08, 0],
            &[0x48, 0x89, 0x08, 0],
            &[0x48, 0xc7, 0x00, 1, 0, 0, 0],
            // A register for an operand; C7 /1; REX not before the opcode; LOCK; REP.
            &[0x89, 0xc8, 0, 0],
            &[0xc7, 0x08, 1, 0, 0, 0],
            &[0x44, 0x65, 0x89, 0x08],
            &[0xf0, 0x89, 0x08, 0],
            &[0xf3, 0x89, 0x08, 0],
            // add, stos, movaps, push.
            &[0x01, 0x08, 0, 0],
            &[0xab, 0, 0, 0],
            &[0x0f, 0x29, 0x00, 0],
            &[0xff, 0x30, 0, 0],
        ] {
            assert_eq!(decode(bytes), None, "{bytes:x?}");
        }
        let mut long = [0x65; 20];
        long[14..16].copy_from_slice(&[0x89, 0x08]);
        assert_eq!(decode(&long), None, "16 bytes are no instruction");
        long[13..15].copy_from_slice(&[0x89, 0x08]);
        assert_eq!(decode(&long), Some((Move::Store(1), 15)));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut state = 1u64;
        for _ in 0..200_000 {
            let mut bytes = [0; 16];
            for byte in &mut bytes {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = (state >> 56) as u8;
            }
            if let Some((_, length)) = decode(&bytes) {
                assert!((2..=LONGEST).contains(&length));
            }
        }
        assert_eq!(decode(&[]), None);
    }
}
