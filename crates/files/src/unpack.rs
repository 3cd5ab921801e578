//! Reads members of a tar object.
//!
//! *Invariants*: names, links, owners and modes in the archive are not looked at: the list says what a member is. Headers that describe
//! other headers are skipped, never held; sizes are believed only as far as the archive goes.

use std::io::Read;

use dozo_model::{FileData, Sha256Digest, Sha256Hasher};
use tar::{Archive, EntryType};

use crate::pack::zeros;
use crate::{FilesError, Result};

/// Most ranges of a file with holes: more than any file system makes of a file of a terabyte.
pub(crate) const RANGES_MAX: u64 = 1 << 22;

/// A member of an archive.
pub struct Member<'a> {
    /// Which one, counted from 0, headers of headers not counted.
    pub number: u32,
    /// Bytes that follow its header.
    pub size: u64,
    bytes: &'a mut dyn Read,
}

/// Takes the content of a file.
pub trait ContentSink<E> {
    /// Takes bytes.
    ///
    /// # Errors
    /// What is wrong with where they go.
    fn data(&mut self, bytes: &[u8]) -> std::result::Result<(), E>;

    /// Takes a range of zeros that need not be stored.
    ///
    /// # Errors
    /// What is wrong with where they go.
    fn hole(&mut self, bytes: u64) -> std::result::Result<(), E>;
}

/// Reads an archive of `bytes` bytes, and shows each member. Returns how many there are.
///
/// # Errors
/// [`FilesError::Damaged`]; what `each` says.
pub fn members<E: From<FilesError>>(
    input: impl Read,
    bytes: u64,
    mut each: impl FnMut(Member<'_>) -> std::result::Result<(), E>,
) -> std::result::Result<u32, E> {
    let damaged = |e: std::io::Error| FilesError::Damaged(format!("the archive cannot be read: {e}"));
    let mut archive = Archive::new(input.take(bytes));
    let mut number = 0;
    for entry in archive.entries().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        let kind = entry.header().entry_type();
        let of_another = [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader, EntryType::XGlobalHeader];
        if of_another.contains(&kind) {
            continue;
        }
        let size = entry.header().entry_size().map_err(damaged)?;
        each(Member { number, size, bytes: &mut entry })?;
        number += 1;
    }
    Ok(number)
}

/// Copies the content of a regular file, which a list describes as `data`. Returns the digest of what there is.
///
/// # Errors
/// [`FilesError::Damaged`] when it cannot be that file; what `sink` says.
pub fn copy_content<E: From<FilesError>>(
    member: Member<'_>,
    data: &FileData,
    sink: &mut impl ContentSink<E>,
) -> std::result::Result<Sha256Digest, E> {
    let Member { size, bytes, .. } = member;
    let ranges = if data.sparse { read_map(bytes, size, data.size)? } else { vec![(0, size)] };
    if !data.sparse && size != data.size {
        return Err(FilesError::Damaged(format!("it has {size} bytes instead of {}", data.size)).into());
    }
    let mut hasher = Sha256Hasher::default();
    let mut buffer = vec![0; 1 << 17];
    let mut at = 0;
    for (offset, length) in ranges {
        if offset > at {
            zeros(&mut hasher, offset - at, |n| sink.hole(n))?;
        }
        let mut left = length;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let n = bytes.read(&mut buffer[..most]).map_err(|e| FilesError::Damaged(format!("it cannot be read: {e}")))?;
            if n == 0 {
                return Err(FilesError::Damaged(format!("it is cut off {left} bytes before its end")).into());
            }
            hasher.update(&buffer[..n]);
            sink.data(&buffer[..n])?;
            left -= n as u64;
        }
        at = offset + length;
    }
    if data.size > at {
        zeros(&mut hasher, data.size - at, |n| sink.hole(n))?;
    }
    Ok(hasher.finish())
}

/// Reads the map before the data of a file with holes: ranges in order, all of them within the file.
fn read_map(bytes: &mut dyn Read, stored: u64, size: u64) -> Result<Vec<(u64, u64)>> {
    let damaged = |why: &str| FilesError::Damaged(format!("the map of its holes is not valid: {why}"));
    let mut block = [0; 512];
    let mut at = block.len();
    let mut read = 0;
    let mut number = || -> Result<u64> {
        let mut value: Option<u64> = None;
        loop {
            if at == block.len() {
                bytes.read_exact(&mut block).map_err(|_| damaged("it is cut off"))?;
                (at, read) = (0, read + block.len() as u64);
            }
            let byte = block[at];
            at += 1;
            match byte {
                b'0'..=b'9' => {
                    let digit = u64::from(byte - b'0');
                    let more = value.unwrap_or(0).checked_mul(10).and_then(|v| v.checked_add(digit));
                    value = Some(more.ok_or_else(|| damaged("a number is too large"))?);
                }
                b'\n' => return value.ok_or_else(|| damaged("a number is missing")),
                _ => return Err(damaged("it holds something else than numbers")),
            }
        }
    };
    let count = number()?;
    if count > RANGES_MAX {
        return Err(damaged("it has too many ranges"));
    }
    let mut ranges = Vec::new();
    let (mut end, mut data) = (0, 0);
    for _ in 0..count {
        let (offset, length) = (number()?, number()?);
        let to = offset.checked_add(length).filter(|to| *to <= size && offset >= end);
        end = to.ok_or_else(|| damaged("a range is out of order, or beyond the end"))?;
        data += length;
        ranges.push((offset, length));
    }
    if read + data != stored {
        return Err(damaged("there is more or less data than it says"));
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_of_holes_are_not_believed() {
        let map = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            bytes
        };
        let read = |text: &str, data: u64, size: u64| {
            let bytes = map(text);
            let stored = bytes.len() as u64 + data;
            read_map(&mut bytes.as_slice(), stored, size)
        };
        assert_eq!(read("2\n4\n6\n100\n0\n", 6, 100).unwrap(), [(4, 6), (100, 0)]);
        assert_eq!(read("0\n", 0, 100).unwrap(), []);
        for (text, data) in [
            ("1\n4\n6\n", 7),
            ("2\n4\n6\n9\n1\n", 7),
            ("1\n95\n6\n", 6),
            ("1\n18446744073709551615\n2\n", 2),
            ("1\n99999999999999999999\n2\n", 2),
            ("5000000\n", 0),
            ("1\n-4\n6\n", 6),
            ("1\n\n6\n", 6),
            ("9\n1\n1\n", 1),
            ("", 0),
        ] {
            assert!(matches!(read(text, data, 100), Err(FilesError::Damaged(_))), "{text:?}");
        }
    }
}
