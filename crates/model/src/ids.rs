//! Names that stand in keys: backup ids and source names.

use std::fmt;

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// A text that is not an id or name of the expected form.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    /// Not a backup id.
    #[error("`{0}` is not a backup id (like 20261121T020000Z-k3x9qa)")]
    Backup(String),
    /// Not a source name.
    #[error("`{0}` is not a source name (1 to 63 of a-z, 0-9, - and _, starting with a letter or digit)")]
    Source(String),
}

const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Returns `len` random characters of a 32-letter alphabet without look-alikes.
pub fn random_suffix(rng: &mut impl Rng, len: usize) -> String {
    (0..len).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// Id of a backup: start time in UTC to the second, and six random characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct BackupId(String);

impl BackupId {
    /// Makes an id for a backup that starts at `now`.
    pub fn new(now: Timestamp, rng: &mut impl Rng) -> Self {
        let stamp = now.strftime("%Y%m%dT%H%M%SZ");
        Self(format!("{stamp}-{}", random_suffix(rng, 6)))
    }

    /// Parses an id.
    ///
    /// # Errors
    /// When the text is not of the form `20261121T020000Z-` and six letters or digits.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let b = text.as_bytes();
        let digits = |r: std::ops::Range<usize>| b[r].iter().all(u8::is_ascii_digit);
        let ok = b.len() == 23
            && digits(0..8)
            && b[8] == b'T'
            && digits(9..15)
            && &b[15..17] == b"Z-"
            && b[17..].iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if ok { Ok(Self(text.to_owned())) } else { Err(IdError::Backup(text.to_owned())) }
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl BackupId {
    /// Returns the part that tells the time, to the second.
    #[must_use]
    pub fn second(&self) -> &str {
        &self.0[..16]
    }

    /// Returns when it was made, to the second; 1970 where no calendar has that second.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        let parsed = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", self.second());
        let utc = parsed.and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC));
        utc.map_or(Timestamp::UNIX_EPOCH, |time| time.timestamp())
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for BackupId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// Name of a source: the key of its table in the configuration, and a folder in the repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SourceName(String);

impl SourceName {
    /// Parses a name.
    ///
    /// # Errors
    /// When it is empty, longer than 63, or has other characters than `a-z 0-9 - _`: names are folders, also on
    /// file systems that ignore case.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let mut chars = text.bytes();
        let ok = text.len() <= 63
            && chars.next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
            && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_');
        if ok { Ok(Self(text.to_owned())) } else { Err(IdError::Source(text.to_owned())) }
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SourceName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_sort_by_time() {
        let mut rng = rand::rng();
        let early = BackupId::new("2026-11-21T02:00:00Z".parse().unwrap(), &mut rng);
        let late = BackupId::new("2026-11-21T02:00:01Z".parse().unwrap(), &mut rng);
        assert!(early < late);
        assert!(early.as_str().starts_with("20261121T020000Z-"));
        assert_eq!(BackupId::parse(early.as_str()).as_ref(), Ok(&early));
    }

    #[test]
    fn ids_and_names_refuse_what_could_leave_a_folder() {
        for text in ["", "..", "20261121T020000Z-../../x", "20261121T020000Z-ABCDEF", "20261121T020000-abcdef"] {
            assert!(BackupId::parse(text).is_err(), "{text}");
        }
        for text in ["", ".", "a/b", "_x", "-x", "Shop", "a b", "日本", &"a".repeat(64)] {
            assert!(SourceName::parse(text).is_err(), "{text}");
        }
        assert!(SourceName::parse("shop-physical_2").is_ok());
    }
}
