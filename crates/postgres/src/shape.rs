//! The shape of a table: fingerprints are compared only where it is equal.

use dozo_model::{Column, KeyRange, PgType, Sha256Digest};

use crate::codec::{EPOCH_MICROS, date_text, timestamp_text};

/// Returns the digest over everything that decides what a row's bytes mean: names, types, enum labels, order. It holds
/// nothing that differs between databases, such as OIDs, numbers of columns, or constraints.
#[must_use]
pub fn shape_digest(columns: &[Column]) -> Sha256Digest {
    let facts: Vec<_> = columns.iter().map(|c| (&c.name, c.wire.to_string(), &c.labels, !c.loaded())).collect();
    Sha256Digest::of(serde_json::to_string(&facts).unwrap_or_default().as_bytes())
}

/// Writes the least and greatest stored integer of a column as its type prints.
#[must_use]
pub fn key_range(column: &Column, (min, max): (i64, i64)) -> Option<KeyRange> {
    let text = |v: i64| match column.wire {
        PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Oid => Some(v.to_string()),
        PgType::Date => Some(date_text(v)),
        PgType::Timestamp => Some(timestamp_text(v.checked_sub(EPOCH_MICROS)?, false)),
        PgType::Timestamptz => Some(timestamp_text(v.checked_sub(EPOCH_MICROS)?, true)),
        _ => None,
    };
    Some(KeyRange { column: column.name.clone(), min: text(min)?, max: text(max)? })
}
