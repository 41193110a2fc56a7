//! How ACPI suspends, switches off and resets the machine: by registers that the FADT names, with values for "off" that are in
//! the DSDT's byte code (ACPI specification, "Fixed ACPI Description Table", "PM1 Control Registers", "Sleep Control and Status
//! Registers", "\_Sx (System States)"). Pure.
//!
//! The byte code is not interpreted: a name with a package of constants is looked for, which is all that firmware ever makes of
//! it. What is not found so is not known, and the host does not get it done.

use arrayvec::ArrayVec;

/// Most registers: two, at old and new places in the FADT, and the one of machines without them.
const REGISTERS_MAX: usize = 5;
/// In a byte: the state is entered; the state.
const ENABLE: u8 = 1 << 5;
const TYPE_SHIFT: u32 = 2;
const TYPE_MASK: u8 = 7 << TYPE_SHIFT;
/// Types have three bits.
const TYPE_MAX: u64 = 7;
/// Flags of the FADT: there is a reset register.
const HAS_RESET: u64 = 1 << 10;
/// A generic address: I/O ports.
const PORT: u8 = 1;

/// A register that suspends the machine or switches it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Its port.
    pub port: u16,
    /// It has 16 bits, and what is of interest is in the upper half; else 8.
    pub wide: bool,
    /// The type that means off.
    pub off: Option<u8>,
}

/// What is known of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Power {
    /// Registers that suspend or switch off, in the order in which they are written.
    pub registers: ArrayVec<Register, REGISTERS_MAX>,
    /// Port and value that reset the machine.
    pub reset: Option<(u16, u8)>,
    /// There is a reset register, and it is no port.
    pub hidden_reset: bool,
    /// There is a register that suspends the machine, and it is no port.
    pub hidden_suspend: bool,
}

/// What a write of a byte asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nothing of this kind.
    Nothing,
    /// To switch off.
    Off,
    /// To suspend, or what nobody knows.
    Suspend,
    /// To reset.
    Reset,
}

impl Register {
    /// The port of the byte that matters.
    fn byte(&self) -> u16 {
        self.port.wrapping_add(u16::from(self.wide))
    }

    /// What to write to switch off, given what the register holds; `None` when the type is not known.
    pub fn value(&self, held: u16) -> Option<u16> {
        let byte = u16::from(self.off? << TYPE_SHIFT | ENABLE);
        let (mask, value) = if self.wide { (u16::from(TYPE_MASK) << 8, byte << 8) } else { (TYPE_MASK.into(), byte) };
        Some(held & !mask | value)
    }
}

impl Power {
    /// Whether an access to the port has to be looked at.
    pub fn is_guarded(&self, port: u16) -> bool {
        self.registers.iter().any(|register| register.byte() == port) || self.reset.is_some_and(|(at, _)| at == port)
    }

    /// Decides about a byte that the host writes.
    pub fn asked(&self, port: u16, byte: u8) -> Asked {
        let written = |register: &&Register| register.byte() == port && byte & ENABLE != 0;
        if let Some(register) = self.registers.iter().find(written) {
            return if register.off == Some((byte & TYPE_MASK) >> TYPE_SHIFT) { Asked::Off } else { Asked::Suspend };
        }
        match self.reset {
            // Whatever other bits it has.
            Some((at, value)) if at == port && byte & value == value => Asked::Reset,
            _ => Asked::Nothing,
        }
    }

    /// Reads a FADT and the byte code of its DSDT, both of which may be as long or short as they like.
    pub fn parse(fadt: &[u8], dsdt: &[u8]) -> Self {
        let mut power = Self::default();
        let off = soft_off(dsdt);
        let number = |at: usize, size: usize| number(fadt, at, size);
        let generic = |at: usize| {
            let address = number(at + 4, 8).filter(|address| *address != 0)?;
            let port = u16::try_from(address).ok().filter(|_| fadt.get(at) == Some(&PORT));
            Some(port)
        };
        // PM1a and PM1b: 32-bit numbers of old, generic addresses of new. Both are kept, should they differ.
        for (which, (old, new)) in [(64, 172), (68, 184)].into_iter().enumerate() {
            let old = number(old, 4).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
            for port in [generic(new).flatten(), old].into_iter().flatten() {
                power.add(Register { port, wide: true, off: off.map(|types| types[which]) });
            }
        }
        power.hidden_suspend = [172, 184, 244].into_iter().any(|at| generic(at) == Some(None));
        if let Some(port) = generic(244).flatten() {
            power.add(Register { port, wide: false, off: off.map(|types| types[0]) });
        }
        if number(112, 4).unwrap_or(0) & HAS_RESET != 0
            && let Some(port) = generic(116)
        {
            power.reset = port.zip(fadt.get(128).copied());
            power.hidden_reset = power.reset.is_none();
        }
        power
    }

    fn add(&mut self, register: Register) {
        if self.registers.iter().all(|other| other.byte() != register.byte()) {
            // Room for all that `parse` can find.
            let _ = self.registers.try_push(register);
        }
    }
}

fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(size)?)?;
    Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// The sleep types of `\_S5`, for PM1a and PM1b.
fn soft_off(code: &[u8]) -> Option<[u8; 2]> {
    let names = code.windows(4).enumerate().filter(|(_, name)| *name == b"_S5_");
    names.map(|(at, _)| at).find_map(|at| is_defined(code.get(..at)?).then(|| package(code.get(at + 4..)?))?)
}

/// Whether code that ends so goes on with the name of something new: NameOp, and the root's sign or none.
fn is_defined(before: &[u8]) -> bool {
    before.ends_with(&[0x08]) || before.ends_with(&[0x08, b'\\'])
}

/// The first two numbers of a package (ACPI specification, "Package Length Encoding", "Data Objects Encoding").
fn package(code: &[u8]) -> Option<[u8; 2]> {
    let (&0x12, code) = code.split_first()? else { return None };
    let first = *code.first()?;
    let more = usize::from(first >> 6);
    // With more bytes the first one has the lowest four bits.
    let low = usize::from(first) & if more == 0 { 0x3f } else { 0xf };
    let length = code.get(1..=more)?.iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte)) << 4 | low;
    let length = if more == 0 { low } else { length };
    let content = code.get(1 + more..length)?;
    let (count, content) = content.split_first()?;
    let (a, rest) = constant(content)?;
    let (b, _) = constant(rest)?;
    (*count >= 2 && a <= TYPE_MAX && b <= TYPE_MAX).then_some([a as u8, b as u8])
}

/// A constant, and what comes after it.
fn constant(code: &[u8]) -> Option<(u64, &[u8])> {
    let (opcode, rest) = code.split_first()?;
    let size = match opcode {
        0 | 1 => return Some((u64::from(*opcode), rest)),
        0x0a => 1,
        0x0b => 2,
        0x0c => 4,
        0x0e => 8,
        _ => return None,
    };
    Some((number(rest, 0, size)?, &rest[size..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    /// `Name (\_S5, Package (4) { 5, 3, 0, 0 })`, with other things around it.
    const CODE: &[u8] = b"\x10\x05_SB_\x08_S5_\x12\x08\x04\x0a\x05\x0a\x03\0\0\x14\x06_PTS";

    fn fadt(length: usize) -> Vec<u8> {
        let mut out = vec![0; 276];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(64, &0x404u32.to_le_bytes());
        put(68, &0x444u32.to_le_bytes());
        put(112, &(HAS_RESET as u32).to_le_bytes());
        put(116, &[PORT, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0, 6]);
        put(172, &[PORT, 16, 0, 2, 4, 4, 0, 0, 0, 0, 0, 0]);
        put(184, &[PORT, 16, 0, 2, 0x84, 4, 0, 0, 0, 0, 0, 0]);
        put(244, &[PORT, 8, 0, 1, 0x40, 0x10, 0, 0, 0, 0, 0, 0]);
        out.truncate(length);
        out
    }

    #[test]
    fn registers_and_types_are_found() {
        let power = Power::parse(&fadt(276), CODE);
        let wide = |port, off| Register { port, wide: true, off: Some(off) };
        let narrow = Register { port: 0x1040, wide: false, off: Some(5) };
        // 0x404 is said twice, and PM1b in two ways that differ.
        assert_eq!(power.registers.as_slice(), [wide(0x404, 5), wide(0x484, 3), wide(0x444, 3), narrow]);
        assert_eq!((power.reset, power.hidden_reset), (Some((0xcf9, 6)), false));
        let old = Power::parse(&fadt(116), CODE);
        assert_eq!(old.registers.as_slice(), [wide(0x404, 5), wide(0x444, 3)]);
        assert_eq!(old.reset, None);
    }

    #[test]
    fn only_off_passes() {
        let power = Power::parse(&fadt(276), CODE);
        for kind in 0..8u8 {
            let byte = kind << 2 | ENABLE | 0x83;
            let expected = |off| if kind == off { Asked::Off } else { Asked::Suspend };
            assert_eq!(power.asked(0x405, byte), expected(5));
            assert_eq!(power.asked(0x485, byte), expected(3));
            assert_eq!(power.asked(0x1040, byte), expected(5));
            assert_eq!(power.asked(0x405, byte & !ENABLE), Asked::Nothing, "the type alone does nothing");
            assert_eq!(power.asked(0x404, byte), Asked::Nothing);
        }
        assert_eq!((power.asked(0xcf9, 6), power.asked(0xcf9, 0xe)), (Asked::Reset, Asked::Reset));
        assert_eq!((power.asked(0xcf9, 2), power.asked(0xcf8, 6)), (Asked::Nothing, Asked::Nothing));
        let guarded: Vec<u16> = (0..=u16::MAX).filter(|port| power.is_guarded(*port)).collect();
        assert_eq!(guarded, [0x405, 0x445, 0x485, 0xcf9, 0x1040]);
    }

    #[test]
    fn without_a_type_nothing_passes() {
        for code in [&b""[..], b"_S5_\x12\x08\x04\x0a\x05\x0a\x03\0\0", b"\x08_S4_\x12\x06\x04\x01\x01\0\0"] {
            let power = Power::parse(&fadt(276), code);
            assert!((0..8u8).all(|kind| power.asked(0x405, kind << 2 | ENABLE) == Asked::Suspend), "{code:x?}");
            assert!(power.registers.iter().all(|register| register.value(0).is_none()));
        }
        assert_eq!(Power::parse(&[], CODE), Power::default());
    }

    #[test]
    fn packages_of_every_form() {
        let found = |package: &[u8]| soft_off(&[b"\x08\\_S5_", package].concat());
        assert_eq!(found(&[0x12, 6, 4, 0, 1, 0, 0]), Some([0, 1]));
        assert_eq!(found(&[0x12, 9, 4, 0x0b, 7, 0, 0x0a, 7, 0, 0]), Some([7, 7]));
        assert_eq!(found(&[0x12, 9, 2, 0x0c, 5, 0, 0, 0, 0x0a, 5]), Some([5, 5]));
        let long = [&[0x12, 0x4a, 0, 2, 0x0a, 5, 0x0a, 6][..], &[0; 8]].concat();
        assert_eq!(found(&long), Some([5, 6]), "a length of two bytes");
        for bad in [
            // Cut; too long a number; one element; no package; a length that ends too early or lies; a name for a number.
            &[][..],
            &[0x12],
            &[0x12, 6],
            &[0x12, 6, 4, 0],
            &[0x12, 7, 2, 0x0a, 8, 0x0a, 0],
            &[0x12, 9, 2, 0x0b, 5, 1, 0x0a, 0, 0],
            &[0x12, 4, 1, 0x0a, 5],
            &[0x13, 6, 4, 5, 5, 0, 0],
            &[0x12, 4, 2, 0x0a, 5, 0x0a, 5],
            &[0x12, 40, 2, 0x0a, 5, 0x0a, 5],
            &[0x12, 0xcf, 0xff, 0xff, 0xff, 2, 0, 0],
            &[0x12, 0, 2, 0, 0],
            &[0x12, 1, 2, 0, 0],
            &[0x12, 7, 2, b'A', b'B', b'C', b'D', 0],
            &[0x12, 4, 2, 0xff, 0],
        ] {
            assert_eq!(found(bad), None, "{bad:x?}");
        }
        // The first that makes sense: a method may mention the name.
        assert_eq!(soft_off(&[b"_S5_\x08_S5_\x12\0", &CODE[6..]].concat()), Some([5, 3]));
    }

    #[test]
    fn what_is_written_to_switch_off() {
        let power = Power::parse(&fadt(276), CODE);
        assert_eq!(power.registers[0].value(0x1c01), Some(0x3401));
        assert_eq!(power.registers[3].value(0x1f), Some(0x37));
    }

    #[test]
    fn a_reset_register_that_is_no_port_is_said() {
        for (space, address) in [(0u8, 0xfed0_0000u32), (2, 0x1_0044), (1, 0x1_0000)] {
            let mut fadt = fadt(276);
            fadt[116] = space;
            fadt[120..124].copy_from_slice(&address.to_le_bytes());
            let power = Power::parse(&fadt, CODE);
            assert_eq!((power.reset, power.hidden_reset, power.hidden_suspend), (None, true, false));
            let mut sleep = self::fadt(276);
            sleep[244] = space;
            sleep[248..252].copy_from_slice(&address.to_le_bytes());
            assert!(Power::parse(&sleep, CODE).hidden_suspend);
        }
        let mut none = fadt(276);
        none[113] = 0;
        assert_eq!((Power::parse(&none, CODE).reset, Power::parse(&none, CODE).hidden_reset), (None, false));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for length in 0..276 {
            let _ = Power::parse(&fadt(length), CODE);
        }
        for cut in 0..CODE.len() {
            let _ = soft_off(&CODE[..cut]);
            for value in [0, 0x12, 0x3f, 0x40, 0x7f, 0xc0, 0xff] {
                let mut code = CODE.to_vec();
                code[cut] = value;
                let _ = soft_off(&code);
            }
        }
    }
}
