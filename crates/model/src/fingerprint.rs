//! The fingerprint of a set of rows: their number and two 64-bit sums of their MD5s, printed `b1:rows:32 hex digits`.
//!
//! The row digest is MD5 over the row's columns: each as a 4-byte big-endian length and that many bytes, NULL as `ff ff ff ff`.
//! The bytes are the column's *send* bytes in `b1` (the COPY BINARY tuple without its field count), its text in UTF-8 in `t1`. The
//! fingerprint of a set of rows is the count and both big-endian halves of the digests, each summed modulo 2⁶⁴. *Invariants*:
//! independent of order, sees duplicates, adds up over chunks and partitions. It detects accidents, not an adversary: what
//! guards stored bytes is the SHA-256 of each object.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::str::FromStr;

use dozo_digest::ManyMd5;
use serde::{Deserialize, Serialize};

/// What a fingerprint is computed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Algorithm {
    /// Each column's *send* bytes.
    #[default]
    B1,
    /// Each column's text in UTF-8.
    T1,
}

impl Algorithm {
    /// Returns its id.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::B1 => "b1",
            Self::T1 => "t1",
        }
    }
}

/// Row count and summed digests of a set of rows. No rows are no rows, by whatever algorithm.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fingerprint {
    /// What the digests are computed over.
    pub algorithm: Algorithm,
    /// Rows in the set.
    pub rows: u64,
    /// Sum of the first eight bytes of each row digest, modulo 2⁶⁴.
    pub hi: u64,
    /// Sum of the last eight bytes of each row digest, modulo 2⁶⁴.
    pub lo: u64,
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        let sums = |f: &Self| (f.rows, f.hi, f.lo);
        sums(self) == sums(other) && (self.rows == 0 || self.algorithm == other.algorithm)
    }
}

impl Eq for Fingerprint {}

impl Fingerprint {
    /// The fingerprint of no rows.
    pub const EMPTY: Self = Self { algorithm: Algorithm::B1, rows: 0, hi: 0, lo: 0 };

    /// Returns the fingerprint of no rows by an algorithm.
    #[must_use]
    pub fn none(algorithm: Algorithm) -> Self {
        Self { algorithm, ..Self::EMPTY }
    }

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
        debug_assert!(
            self.rows == 0 || other.rows == 0 || self.algorithm == other.algorithm,
            "sums of different algorithms mean nothing together"
        );
        Self {
            algorithm: if self.rows == 0 { other.algorithm } else { self.algorithm },
            rows: self.rows + other.rows,
            hi: self.hi.wrapping_add(other.hi),
            lo: self.lo.wrapping_add(other.lo),
        }
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
#[error("`{0}` is not a fingerprint of the form b1:rows:32 hex digits or t1:rows:32 hex digits")]
pub struct FingerprintError(String);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{:016x}{:016x}", self.algorithm.id(), self.rows, self.hi, self.lo)
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        parse(text).ok_or_else(|| FingerprintError(text.to_owned()))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

fn parse(text: &str) -> Option<Fingerprint> {
    let mut parts = text.split(':');
    let (Some(id), Some(rows), Some(hex), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else { return None };
    let algorithm = [Algorithm::B1, Algorithm::T1].into_iter().find(|a| a.id() == id)?;
    let digits = hex.len() == 32 && hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    if !digits {
        return None;
    }
    Some(Fingerprint {
        algorithm,
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
    /// Begins with no rows.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self { md5: ManyMd5::default(), sum: Fingerprint::none(algorithm) }
    }

    /// Adds rows: each tuple's bytes without the field count.
    pub fn add(&mut self, rows: &[&[u8]]) {
        let sum = &mut self.sum;
        self.md5.digest(rows, |_, digest| sum.add_digest(digest));
    }

    /// Returns the fingerprint of all rows since the last call, and starts over.
    pub fn take(&mut self) -> Fingerprint {
        let nothing = Fingerprint::none(self.sum.algorithm);
        std::mem::replace(&mut self.sum, nothing)
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
    fn algorithms_are_told_apart_where_there_are_rows() {
        let [b, t] = ["b1", "t1"].map(|id| format!("{id}:1:900150983cd24fb0d6963f7d28e17f72").parse::<Fingerprint>().unwrap());
        assert_ne!(b, t);
        assert_eq!(t.to_string(), "t1:1:900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(Fingerprint::none(Algorithm::T1), Fingerprint::EMPTY);
        assert_eq!(Fingerprint::EMPTY + t, t);
        assert_eq!([t].into_iter().sum::<Fingerprint>().algorithm, Algorithm::T1);
    }

    #[test]
    fn refuses_other_texts() {
        for text in [
            "",
            "b1:1:90",
            "t2:1:900150983cd24fb0d6963f7d28e17f72",
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
