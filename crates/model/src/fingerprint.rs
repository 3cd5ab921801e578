//! The fingerprint `b1`: row count and two 64-bit sums of row MD5s, printed `b1:rows:32 hex digits`.
//!
//! The row digest is MD5 over the COPY BINARY tuple without its field count: each column as a 4-byte
//! big-endian length and that many *send* bytes, NULL as `ff ff ff ff`. The fingerprint of a set of rows is
//! the count and both big-endian halves of the digests, each summed modulo 2⁶⁴. *Invariants*: independent of
//! order, sees duplicates, adds up over chunks and partitions. It detects accidents, not an adversary: what
//! guards stored bytes is the SHA-256 of each object.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::str::FromStr;

use dozo_digest::ManyMd5;
use serde::{Deserialize, Serialize};

/// Id of the fingerprint algorithm: COPY BINARY framing, MD5, two summed lanes.
pub const ALGORITHM: &str = "b1";
/// Id of the fingerprint algorithm over texts: the same framing, digests and sums over each column's text in UTF-8.
pub const TEXT_ALGORITHM: &str = "t1";

/// Row count and summed digests of a set of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Fingerprint {
    /// Rows in the set.
    pub rows: u64,
    /// Sum of the first eight bytes of each row digest, modulo 2⁶⁴.
    pub hi: u64,
    /// Sum of the last eight bytes of each row digest, modulo 2⁶⁴.
    pub lo: u64,
}

impl Fingerprint {
    /// The fingerprint of no rows.
    pub const EMPTY: Self = Self { rows: 0, hi: 0, lo: 0 };

    /// Adds one row by its MD5.
    pub fn add_digest(&mut self, digest: [u8; 16]) {
        let (hi, lo) = digest.split_at(8);
        self.rows += 1;
        self.hi = self.hi.wrapping_add(u64::from_be_bytes(hi.try_into().expect("half of 16 bytes")));
        self.lo = self.lo.wrapping_add(u64::from_be_bytes(lo.try_into().expect("half of 16 bytes")));
    }
}

impl Add for Fingerprint {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, hi: self.hi.wrapping_add(other.hi), lo: self.lo.wrapping_add(other.lo) }
    }
}

impl AddAssign for Fingerprint {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Fingerprint {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::EMPTY, Add::add)
    }
}

/// A fingerprint text that could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a fingerprint of the form {1}:rows:32 hex digits")]
pub struct FingerprintError(String, &'static str);

/// A fingerprint by the algorithm `t1`: over each column's text instead of its *send* bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TextFingerprint(pub Fingerprint);

impl TextFingerprint {
    fn sums(&self) -> &Fingerprint {
        &self.0
    }
}

/// Printing and reading are the same for both but for the algorithm's id.
macro_rules! printed {
    ($form:ty, $id:ident, $sums:expr, $made:expr) => {
        impl fmt::Display for $form {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let sums: &Fingerprint = $sums(self);
                write!(f, "{}:{}:{:016x}{:016x}", $id, sums.rows, sums.hi, sums.lo)
            }
        }

        impl FromStr for $form {
            type Err = FingerprintError;

            fn from_str(text: &str) -> Result<Self, FingerprintError> {
                parse(text, $id).map($made).ok_or_else(|| FingerprintError(text.to_owned(), $id))
            }
        }

        impl Serialize for $form {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $form {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

printed!(Fingerprint, ALGORITHM, std::convert::identity, std::convert::identity);
printed!(TextFingerprint, TEXT_ALGORITHM, TextFingerprint::sums, TextFingerprint);

fn parse(text: &str, algorithm: &str) -> Option<Fingerprint> {
    let mut parts = text.split(':');
    let (Some(id), Some(rows), Some(hex), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else { return None };
    let digits = hex.len() == 32 && hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    if id != algorithm || !digits {
        return None;
    }
    Some(Fingerprint {
        rows: rows.parse().ok()?,
        hi: u64::from_str_radix(&hex[..16], 16).ok()?,
        lo: u64::from_str_radix(&hex[16..], 16).ok()?,
    })
}

/// Digests rows, many at once, and sums them.
#[derive(Debug, Default)]
pub struct RowDigester {
    md5: ManyMd5,
    sum: Fingerprint,
}

impl RowDigester {
    /// Adds rows: each tuple's bytes without the field count.
    pub fn add(&mut self, rows: &[&[u8]]) {
        let sum = &mut self.sum;
        self.md5.digest(rows, |_, digest| sum.add_digest(digest));
    }

    /// Returns the fingerprint of all rows since the last call, and starts over.
    pub fn take(&mut self) -> Fingerprint {
        std::mem::take(&mut self.sum)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(rows: &[Vec<u8>]) -> Fingerprint {
        let mut digester = RowDigester::default();
        digester.add(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
        digester.take()
    }

    /// RFC 1321, appendix A.5.
    #[test]
    fn one_row_is_its_md5() {
        assert_eq!(of(&[b"abc".to_vec()]).to_string(), "b1:1:900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(of(&[vec![]]).to_string(), "b1:1:d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(of(&[]).to_string(), "b1:0:00000000000000000000000000000000");
    }

    #[test]
    fn refuses_other_texts() {
        for text in [
            "",
            "b1:1:90",
            "t1:1:900150983cd24fb0d6963f7d28e17f72",
            "b1:x:900150983cd24fb0d6963f7d28e17f72",
            "b1:1:900150983CD24FB0D6963F7D28E17F72",
            "b1:1:900150983cd24fb0d6963f7d28e17f72:",
        ] {
            assert!(text.parse::<Fingerprint>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn adds_up_over_chunks_in_any_order(rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..40), cut in 0usize..40) {
            let whole = of(&rows);
            let cut = cut.min(rows.len());
            let (a, b) = rows.split_at(cut);
            prop_assert_eq!(of(b) + of(a), whole);
            let mut reversed = rows.clone();
            reversed.reverse();
            prop_assert_eq!(of(&reversed), whole);
            prop_assert_eq!(whole.to_string().parse::<Fingerprint>().unwrap(), whole);
        }

        #[test]
        fn sees_duplicates(row in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_ne!(of(&[row.clone(), row.clone()]), of(std::slice::from_ref(&row)));
            prop_assert_ne!(of(&[row.clone(), row]), Fingerprint::EMPTY);
        }
    }
}
