//! The SQL by which two sides find out where their rows differ: fingerprints of buckets of keys, then the rows of a few buckets.
//!
//! A row's bucket is the first [`BUCKET_BITS`] bits of the MD5 of its key (framed like a row); of a table without a key, of the
//! row itself. Bucket sums add up to the table's fingerprint, and both sides put equal keys into equal buckets.

use std::collections::HashMap;

use dozo_model::{Column, Fingerprint, QualifiedName, quote_ident};

use crate::sql::row_bytes;
use crate::token::modulo;
use crate::wire::TextRow;

/// Bits of a bucket's number.
pub(crate) const BUCKET_BITS: u32 = 12;
const BUCKET_DIGITS: u32 = BUCKET_BITS / 4;

/// A row of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedRow {
    /// MD5 of the key.
    pub key_digest: [u8; 16],
    /// MD5 of the row.
    pub row_digest: [u8; 16],
    /// The key as text.
    pub key: Vec<Option<String>>,
    /// How many such rows there are: equal rows of a table without a key are one.
    pub rows: u64,
}

fn digests(table: &QualifiedName, columns: &[Column], key: &[Column]) -> String {
    let of_key = if key.is_empty() { row_bytes(columns) } else { row_bytes(key) };
    let texts: Vec<String> = key.iter().enumerate().map(|(i, c)| format!(", {}::text k{i}", quote_ident(&c.name))).collect();
    format!(
        "WITH q AS (SELECT md5({}) h, md5({of_key}) k{} FROM ONLY {} OFFSET 0)",
        row_bytes(columns),
        texts.concat(),
        table.sql()
    )
}

/// Writes the statement that computes the fingerprint of every bucket of a table's own rows.
pub(crate) fn bucket_sums_sql(table: &QualifiedName, columns: &[Column], key: &[Column]) -> String {
    format!(
        "{} SELECT ('x' || left(k, {BUCKET_DIGITS}))::bit({BUCKET_BITS})::int4, count(*),
                sum(('x' || left(h, 16))::bit(64)::int8), sum(('x' || right(h, 16))::bit(64)::int8) FROM q GROUP BY 1",
        digests(table, columns, key)
    )
}

/// Reads its answer.
pub(crate) fn bucket_sums(answer: &[TextRow]) -> Option<HashMap<u16, Fingerprint>> {
    let bucket = |row: &TextRow| {
        let [Some(bucket), Some(rows), Some(hi), Some(lo)] = row.as_slice() else { return None };
        let sums = Fingerprint { rows: rows.parse().ok()?, hi: modulo(hi)?, lo: modulo(lo)?, ..Fingerprint::EMPTY };
        Some((bucket.parse().ok()?, sums))
    };
    answer.iter().map(bucket).collect()
}

/// Writes the statement that returns the rows of some buckets.
pub(crate) fn bucket_rows_sql(table: &QualifiedName, columns: &[Column], key: &[Column], buckets: &[u16]) -> String {
    let texts: String = (0..key.len()).map(|i| format!(", k{i}")).collect();
    let wanted: Vec<String> = buckets.iter().map(ToString::to_string).collect();
    format!(
        "{} SELECT k, h, count(*){texts} FROM q WHERE ('x' || left(k, {BUCKET_DIGITS}))::bit({BUCKET_BITS})::int4 = ANY('{{{}}}') GROUP BY k, h{texts}",
        digests(table, columns, key),
        wanted.join(",")
    )
}

/// Reads its answer.
pub(crate) fn bucket_rows(answer: Vec<TextRow>) -> Option<Vec<KeyedRow>> {
    let digest = |hex: Option<String>| -> Option<[u8; 16]> { Some(u128::from_str_radix(&hex?, 16).ok()?.to_be_bytes()) };
    let row = |row: TextRow| {
        let mut values = row.into_iter();
        let (key_digest, row_digest) = (digest(values.next()?)?, digest(values.next()?)?);
        let rows = values.next()??.parse().ok()?;
        Some(KeyedRow { key_digest, row_digest, rows, key: values.collect() })
    };
    answer.into_iter().map(row).collect()
}

/// Returns the bucket of a digest.
#[must_use]
pub fn bucket_of(digest: [u8; 16]) -> u16 {
    u16::from_be_bytes([digest[0], digest[1]]) >> (16 - BUCKET_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_the_first_three_hex_digits() {
        let mut digest = [0xff; 16];
        digest[..2].copy_from_slice(&[0x12, 0x3f]);
        assert_eq!(bucket_of(digest), 0x123);
    }
}
