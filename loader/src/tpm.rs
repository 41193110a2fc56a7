//! Reading a TPM's registers back, to see that they are what the log of measurements says (TPM 2.0 Library, part 3, section
//! "TPM2_PCR_Read"; part 2 has the structures).

use crate::eventlog::{self, DIGEST_SIZE, PCR_FILES, PCR_SETTINGS, SHA384};
use sha2::{Digest, Sha384};

/// TPM_ST_NO_SESSIONS, TPM_CC_PCR_Read.
const NO_SESSIONS: u16 = 0x8001;
const READ: u32 = 0x0000_017e;
/// Bytes of a selection of registers, as all of them are written.
const SELECTED: u8 = 3;
/// The registers that are measured into.
const REGISTERS: [u32; 2] = [PCR_SETTINGS, PCR_FILES];

/// Values of [`PCR_SETTINGS`] and [`PCR_FILES`] for SHA-384.
pub type Values = [[u8; DIGEST_SIZE]; REGISTERS.len()];

/// The command that reads [`Values`].
pub fn read_command() -> [u8; 20] {
    let mut out = [0; 20];
    let selection = REGISTERS.iter().fold(0_u32, |bits, register| bits | 1 << register).to_le_bytes();
    out[..2].copy_from_slice(&NO_SESSIONS.to_be_bytes());
    out[2..6].copy_from_slice(&20_u32.to_be_bytes());
    out[6..10].copy_from_slice(&READ.to_be_bytes());
    out[10..14].copy_from_slice(&1_u32.to_be_bytes());
    out[14..16].copy_from_slice(&SHA384.to_be_bytes());
    out[16] = SELECTED;
    out[17..].copy_from_slice(&selection[..usize::from(SELECTED)]);
    out
}

/// Reads the answer to [`read_command`]; `None` when the TPM refuses, or does not keep SHA-384 registers.
pub fn values(answer: &[u8]) -> Option<Values> {
    let mut rest = answer;
    let mut take = |count: usize| {
        let (head, tail) = rest.split_at_checked(count)?;
        rest = tail;
        Some(head)
    };
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    // Tag, size, code; update counter.
    let header = take(14)?;
    if header[..2] != NO_SESSIONS.to_be_bytes()
        || number(&header[2..6]) > answer.len() as u64
        || header[6..10] != [0; 4]
    {
        return None;
    }
    // What was selected has to be what was read.
    if take(10)? != &read_command()[10..] || number(take(4)?) != REGISTERS.len() as u64 {
        return None;
    }
    let mut out = [[0; DIGEST_SIZE]; REGISTERS.len()];
    for value in &mut out {
        if number(take(2)?) != DIGEST_SIZE as u64 {
            return None;
        }
        value.copy_from_slice(take(DIGEST_SIZE)?);
    }
    Some(out)
}

/// What the registers are once everything in `log` has been measured, if they were `before` (part 1, section "Extend of a
/// PCR": the new value is the digest of the old one and of what is measured).
pub fn replay(before: &Values, log: &[u8]) -> Values {
    let mut values = *before;
    for event in eventlog::events(log) {
        for (register, value) in REGISTERS.iter().zip(&mut values).filter(|(register, _)| **register == event.register)
        {
            debug_assert_eq!(*register, event.register);
            *value = Sha384::new().chain_update(*value).chain_update(event.digest).finalize().into();
        }
    }
    values
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::eventlog::EventLog;
    use std::vec::Vec;

    /// What a TPM answers.
    pub fn answer(values: &Values) -> Vec<u8> {
        let mut out = Vec::from([0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        out.extend(&read_command()[10..]);
        out.extend(2_u32.to_be_bytes());
        for value in values {
            out.extend(48_u16.to_be_bytes());
            out.extend(value);
        }
        let size = (out.len() as u32).to_be_bytes();
        out[2..6].copy_from_slice(&size);
        out
    }

    #[test]
    fn the_command_is_what_the_specification_says() {
        let wanted = [0x80, 1, 0, 0, 0, 20, 0, 0, 1, 0x7e, 0, 0, 0, 1, 0, 0xc, 3, 0, 3, 0];
        assert_eq!(read_command(), wanted);
    }

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        let whole = answer(&[[1; 48], [2; 48]]);
        assert_eq!(values(&whole), Some([[1; 48], [2; 48]]));
        for length in 0..whole.len() {
            assert_eq!(values(&whole[..length]), None);
        }
        // A refusal, another tag, no SHA-384 registers, one register, a shorter digest.
        for (at, value) in [(9, 1), (1, 2), (15, 0xb), (19, 0), (22, 0), (27, 1), (29, 32)] {
            let mut bad = whole.clone();
            bad[at] = value;
            if bad != whole {
                assert_eq!(values(&bad), None, "byte {at}");
            }
        }
    }

    #[test]
    fn a_log_gives_the_registers_value() {
        let mut log = EventLog::new();
        assert_eq!(replay(&[[3; 48]; 2], log.bytes()), [[3; 48]; 2]);
        log.append(PCR_FILES, &[7; 48], "file");
        log.append(PCR_SETTINGS, &[8; 48], "settings");
        log.append(PCR_FILES, &[9; 48], "file");
        let extend =
            |value: [u8; 48], digest: [u8; 48]| -> [u8; 48] { Sha384::digest([value, digest].concat()).into() };
        let wanted = [extend([0; 48], [8; 48]), extend(extend([0; 48], [7; 48]), [9; 48])];
        assert_eq!(replay(&[[0; 48]; 2], log.bytes()), wanted);
    }
}
