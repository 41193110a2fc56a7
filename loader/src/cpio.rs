//! Reader for the `newc` cpio format: per file a header of 110 ASCII characters, the name and the data, both padded to
//! four bytes (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).

use crate::BootError;

const HEADER: usize = 110;
const TRAILER: &str = "TRAILER!!!";

/// One file of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File<'a> {
    /// Path as stored.
    pub name: &'a str,
    /// Content.
    pub data: &'a [u8],
    /// Offset of the content in the archive, in bytes.
    pub offset: usize,
}

/// Looks a file up; `Ok(None)` when a well-formed archive does not have it.
///
/// # Errors
/// [`BootError::Bundle`] when the archive is damaged before the file is found.
pub fn find<'a>(archive: &'a [u8], name: &str) -> Result<Option<File<'a>>, BootError> {
    for file in files(archive) {
        let file = file?;
        if file.name == name {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// All files of an archive; ends after the trailer or the first error.
pub fn files(archive: &[u8]) -> impl Iterator<Item = Result<File<'_>, BootError>> {
    let mut at = Some(0);
    core::iter::from_fn(move || {
        let step = read(archive, at?);
        at = step.as_ref().ok().and_then(|(_, next)| *next);
        match step {
            Ok((file, Some(_))) => Some(Ok(file)),
            Ok((_, None)) => None,
            Err(error) => Some(Err(error)),
        }
    })
}

/// The file whose header is at `at`, and where the next header is; `None` for the trailer.
fn read(archive: &[u8], at: usize) -> Result<(File<'_>, Option<usize>), BootError> {
    let header = archive.get(at..at.checked_add(HEADER).ok_or(BootError::Bundle)?).ok_or(BootError::Bundle)?;
    if &header[..6] != b"070701" {
        return Err(BootError::Bundle);
    }
    // Fields of eight hexadecimal digits follow the magic; number 6 is the file's size, number 11 the name's.
    let size = field(header, 6)?;
    let name_size = field(header, 11)?;
    let name_at = at + HEADER;
    let name_end = name_at.checked_add(name_size).ok_or(BootError::Bundle)?;
    let name = archive.get(name_at..name_end).and_then(|bytes| bytes.strip_suffix(b"\0")).ok_or(BootError::Bundle)?;
    let name = core::str::from_utf8(name).map_err(|_| BootError::Bundle)?;
    let offset = name_end.checked_next_multiple_of(4).ok_or(BootError::Bundle)?;
    let end = offset.checked_add(size).ok_or(BootError::Bundle)?;
    let file = File { name, data: archive.get(offset..end).ok_or(BootError::Bundle)?, offset };
    if name == TRAILER {
        return Ok((file, None));
    }
    Ok((file, Some(end.checked_next_multiple_of(4).ok_or(BootError::Bundle)?)))
}

fn field(header: &[u8], number: usize) -> Result<usize, BootError> {
    let digits = core::str::from_utf8(&header[6 + number * 8..14 + number * 8]).map_err(|_| BootError::Bundle)?;
    usize::from_str_radix(digits, 16).map_err(|_| BootError::Bundle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn entry(name: &str, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::from(&b"070701"[..]);
        for number in 0..13 {
            let value = match number {
                6 => data.len(),
                11 => name.len() + 1,
                _ => 0,
            };
            out.extend(std::format!("{value:08x}").bytes());
        }
        out.extend(name.bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(data);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn archive() -> Vec<u8> {
        [entry("host/kernel", b"abcde"), entry("config", b"mode=run\n"), entry(TRAILER, b"")].concat()
    }

    #[test]
    fn files_are_found_by_name() {
        let archive = archive();
        assert_eq!(find(&archive, "config").unwrap().unwrap().data, b"mode=run\n");
        assert_eq!(find(&archive, "guest/kernel").unwrap(), None);
        assert_eq!(files(&archive).count(), 2);
    }

    #[test]
    fn every_truncation_and_flipped_byte_is_an_error_or_an_answer_but_never_a_panic() {
        let whole = archive();
        for length in 0..whole.len() - 4 {
            assert!(find(&whole[..length], "absent").is_err(), "cut at {length}");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bad = whole.clone();
                bad[at] ^= 1 << bit;
                let _ = find(&bad, "config");
            }
        }
    }
}
