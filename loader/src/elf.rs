//! ELF programs for a bare machine (System V ABI, "Object Files"): checked as a whole before anything is loaded.

use crate::Bytes;
use arrayvec::ArrayVec;
use core::fmt;

/// EM_X86_64.
pub const X86_64: u16 = 62;
/// EM_AARCH64.
pub const AARCH64: u16 = 183;
/// Most segments to load.
pub const SEGMENTS_MAX: usize = 16;
/// Bytes of the file that hold all headers of a program that is believed.
pub const HEADERS_MAX: usize = 4096;
/// Largest program in memory, in bytes.
const MEMORY_MAX: u64 = 256 << 20;
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PT_LOAD: u32 = 1;
const PF_X: u32 = 1;
const PF_W: u32 = 2;

/// A program to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// What to load, by address.
    pub segments: ArrayVec<Segment, SEGMENTS_MAX>,
    /// Addresses from the first segment's start to the last one's end.
    pub memory: Bytes,
    /// First instruction, in a segment that may be executed.
    pub entry: u64,
}

/// A part of the file and where it goes. Memory behind it up to `memory.end` is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Bytes of the file.
    pub size: u64,
    /// Physical addresses.
    pub memory: Bytes,
    /// May be written.
    pub write: bool,
    /// May be executed.
    pub execute: bool,
}

/// Why a file is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// No ELF file, or not one of 64 bits, little endian.
    Magic,
    /// For another architecture: its number.
    Machine(u16),
    /// Neither an executable nor position-independent.
    Kind,
    /// Headers are not where they should be, or there are too many.
    Headers,
    /// A segment lies outside the file: it is cut short.
    Short,
    /// A segment's sizes or addresses cannot be.
    Segment,
    /// Two segments overlap in memory.
    Overlap,
    /// The first instruction is in no segment that may be executed.
    Entry,
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => {
                write!(f, "it is no 64-bit ELF program: take the file `postern` of a build for this machine")
            }
            Self::Machine(number) => {
                write!(f, "it is for another architecture (ELF machine {number}): take the one for this machine")
            }
            Self::Kind => write!(f, "it is no program that can be started"),
            Self::Headers => write!(f, "its headers are damaged"),
            Self::Short => write!(f, "it is cut short: copy it again"),
            Self::Segment => write!(f, "a segment of it has sizes or addresses that cannot be"),
            Self::Overlap => write!(f, "two segments of it overlap"),
            Self::Entry => write!(f, "its first instruction is in no executable segment"),
        }
    }
}

/// Reads the headers at the start of a file of `file_size` bytes; `head` is its first [`HEADERS_MAX`] bytes, or all.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(head: &[u8], file_size: u64, machine: u16) -> Result<Program, ElfError> {
    let word = |at: usize| field::<8>(head, at).map(u64::from_le_bytes).ok_or(ElfError::Headers);
    let short = |at: usize| field::<2>(head, at).map(u16::from_le_bytes).ok_or(ElfError::Headers);
    // Class 64 bits, little endian, version 1.
    if head.get(..7) != Some(b"\x7fELF\x02\x01\x01") {
        return Err(ElfError::Magic);
    }
    if short(18)? != machine {
        return Err(ElfError::Machine(short(18)?));
    }
    if !matches!(short(16)?, 2 | 3) {
        return Err(ElfError::Kind);
    }
    let (table, count) = (word(32)?, short(56)? as usize);
    if usize::from(short(54)?) != PROGRAM_HEADER || table < HEADER as u64 || table > HEADERS_MAX as u64 {
        return Err(ElfError::Headers);
    }
    let mut segments = ArrayVec::<Segment, SEGMENTS_MAX>::new();
    for index in 0..count {
        let at = table as usize + index * PROGRAM_HEADER;
        let header = head.get(at..at + PROGRAM_HEADER).ok_or(ElfError::Headers)?;
        if let Some(segment) = segment(header, file_size)? {
            segments.try_push(segment).map_err(|_| ElfError::Headers)?;
        }
    }
    segments.sort_unstable_by_key(|segment| segment.memory.start);
    if segments.windows(2).any(|pair| pair[1].memory.start < pair[0].memory.end) {
        return Err(ElfError::Overlap);
    }
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else { return Err(ElfError::Headers) };
    let memory = first.memory.start..last.memory.end;
    if memory.end - memory.start > MEMORY_MAX {
        return Err(ElfError::Segment);
    }
    let entry = word(24)?;
    if !segments.iter().any(|segment| segment.execute && segment.memory.contains(&entry)) {
        return Err(ElfError::Entry);
    }
    Ok(Program { segments, memory, entry })
}

/// Checks a program header; `None` for one that loads nothing.
fn segment(header: &[u8], file_size: u64) -> Result<Option<Segment>, ElfError> {
    let word = |at: usize| field::<8>(header, at).map(u64::from_le_bytes).ok_or(ElfError::Headers);
    let half = |at: usize| field::<4>(header, at).map(u32::from_le_bytes).ok_or(ElfError::Headers);
    let (kind, flags, offset) = (half(0)?, half(4)?, word(8)?);
    let (address, size, memory_size) = (word(24)?, word(32)?, word(40)?);
    if kind != PT_LOAD || memory_size == 0 {
        return Ok(None);
    }
    if offset.checked_add(size).is_none_or(|end| end > file_size) {
        return Err(ElfError::Short);
    }
    let end = address.checked_add(memory_size).ok_or(ElfError::Segment)?;
    if size > memory_size {
        return Err(ElfError::Segment);
    }
    let (write, execute) = (flags & PF_W != 0, flags & PF_X != 0);
    Ok(Some(Segment { offset, size, memory: address..end, write, execute }))
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    /// A program with these segments: (flags, offset, address, bytes in file, bytes in memory).
    pub(crate) fn program(segments: &[(u32, u64, u64, u64, u64)], entry: u64) -> Vec<u8> {
        let mut file = vec![0; HEADER];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[16..20].copy_from_slice(&[3, 0, 62, 0]);
        file[24..32].copy_from_slice(&entry.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        for (flags, offset, address, size, memory) in segments {
            file.extend(1u32.to_le_bytes());
            file.extend(flags.to_le_bytes());
            for word in [offset, address, address, size, memory, &4096] {
                file.extend(word.to_le_bytes());
            }
        }
        file
    }

    fn check(segments: &[(u32, u64, u64, u64, u64)], entry: u64) -> Result<Program, ElfError> {
        parse(&program(segments, entry), 0x3000, X86_64)
    }

    #[test]
    fn a_good_program_is_read() {
        let good = check(&[(6, 0x2000, 0x20_3000, 0x100, 0x5000), (5, 0x1000, 0x20_0000, 0x800, 0x800)], 0x20_0010);
        let good = good.unwrap();
        assert_eq!((good.memory, good.entry), (0x20_0000..0x20_8000, 0x20_0010));
        assert_eq!((good.segments[0].execute, good.segments[0].write), (true, false));
        assert_eq!((good.segments[1].execute, good.segments[1].write, good.segments[1].size), (false, true, 0x100));
    }

    #[test]
    fn bad_programs_are_refused_for_the_right_reason() {
        let text = (5, 0x1000, 0x20_0000, 0x800, 0x800);
        assert_eq!(check(&[text], 0x10), Err(ElfError::Entry));
        assert_eq!(check(&[(6, 0, 0x20_0000, 8, 8)], 0x20_0000), Err(ElfError::Entry));
        assert_eq!(check(&[text, (6, 0, 0x20_0400, 8, 8)], 0x20_0000), Err(ElfError::Overlap));
        assert_eq!(check(&[(5, 0x2fff, 0x20_0000, 2, 8)], 0x20_0000), Err(ElfError::Short));
        assert_eq!(check(&[(5, u64::MAX, 0x20_0000, 2, 8)], 0x20_0000), Err(ElfError::Short));
        assert_eq!(check(&[(5, 0, 0x20_0000, 9, 8)], 0x20_0000), Err(ElfError::Segment));
        assert_eq!(check(&[(5, 0, u64::MAX, 0, 8)], 0x20_0000), Err(ElfError::Segment));
        assert_eq!(check(&[text, (6, 0, 1 << 40, 0, 8)], 0x20_0000), Err(ElfError::Segment));
        assert_eq!(check(&[], 0), Err(ElfError::Headers));
        assert_eq!(check(&[(5, 0, 0, 0, 8); 17], 0), Err(ElfError::Headers));
        let good = program(&[text], 0x20_0000);
        assert_eq!(parse(&good, 0x3000, AARCH64), Err(ElfError::Machine(62)));
        for length in 0..good.len() {
            assert!(parse(&good[..length], 0x3000, X86_64).is_err());
        }
        let mut relocatable = good.clone();
        relocatable[16] = 1;
        assert_eq!(parse(&relocatable, 0x3000, X86_64), Err(ElfError::Kind));
        assert_eq!(parse(b"MZ", 2, X86_64), Err(ElfError::Magic));
    }
}
