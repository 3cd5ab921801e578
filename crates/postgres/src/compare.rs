//! The SQL by which two sides find out where their rows differ: fingerprints of buckets of keys, then the rows of a few buckets.
//!
//! A row's bucket is the first [`BUCKET_BITS`] bits of the MD5 of its key (framed like a row); of a table without a key, of the
//! row itself. Bucket sums add up to the table's fingerprint, and both sides put equal keys into equal buckets.

use std::collections::HashMap;

use dozo_model::{Column, Fingerprint, QualifiedName, quote_ident};

use crate::error::PgError;
use crate::session::Session;
use crate::sql::row_bytes;

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
}

fn digests(table: &QualifiedName, columns: &[Column], key: &[Column]) -> String {
    let of_key = if key.is_empty() { row_bytes(columns) } else { row_bytes(key) };
    let texts: Vec<String> = key.iter().map(|c| format!("{}::text", quote_ident(&c.name))).collect();
    format!(
        "WITH q AS (SELECT md5({}) h, md5({of_key}) k, ARRAY[{}]::text[] t FROM ONLY {} OFFSET 0)",
        row_bytes(columns),
        texts.join(", "),
        table.sql()
    )
}

/// Computes the fingerprint of every bucket of a table's own rows.
pub(crate) async fn bucket_sums(
    session: &Session,
    table: &QualifiedName,
    columns: &[Column],
    key: &[Column],
) -> Result<HashMap<u16, Fingerprint>, PgError> {
    let what = format!("comparing {table}");
    let sql = format!(
        "{} SELECT ('x' || left(k, {BUCKET_DIGITS}))::bit({BUCKET_BITS})::int4, count(*),
                sum(('x' || left(h, 16))::bit(64)::int8)::text, sum(('x' || right(h, 16))::bit(64)::int8)::text FROM q GROUP BY 1",
        digests(table, columns, key)
    );
    let rows = session.query(&what, &sql, &[]).await?;
    let sum = |text: String| -> Result<u64, PgError> {
        let sum: i128 = text.parse().map_err(|_| PgError::Query {
            what: what.clone(),
            reason: format!("`{text}` is not a sum"),
            sqlstate: String::new(),
        })?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the sum is taken modulo 2^64")]
        Ok(sum as u64)
    };
    rows.iter()
        .map(|r| {
            let bucket = u16::try_from(r.get::<_, i32>(0)).unwrap_or(u16::MAX);
            let rows = r.get::<_, i64>(1).unsigned_abs();
            Ok((bucket, Fingerprint { rows, hi: sum(r.get(2))?, lo: sum(r.get(3))? }))
        })
        .collect()
}

/// Returns the rows of some buckets.
pub(crate) async fn bucket_rows(
    session: &Session,
    table: &QualifiedName,
    columns: &[Column],
    key: &[Column],
    buckets: &[u16],
) -> Result<Vec<KeyedRow>, PgError> {
    let what = format!("comparing {table}");
    let sql = format!(
        "{} SELECT decode(k, 'hex'), decode(h, 'hex'), t FROM q WHERE ('x' || left(k, {BUCKET_DIGITS}))::bit({BUCKET_BITS})::int4 = ANY($1)",
        digests(table, columns, key)
    );
    let wanted: Vec<i32> = buckets.iter().map(|b| i32::from(*b)).collect();
    let rows = session.query(&what, &sql, &[&wanted]).await?;
    let digest = |bytes: Vec<u8>| -> Result<[u8; 16], PgError> {
        bytes.try_into().map_err(|_| PgError::Query {
            what: what.clone(),
            reason: "an MD5 of another length".into(),
            sqlstate: String::new(),
        })
    };
    rows.iter().map(|r| Ok(KeyedRow { key_digest: digest(r.get(0))?, row_digest: digest(r.get(1))?, key: r.get(2) })).collect()
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
