//! Chooses each column's encoding from the first rows of a file.
//!
//! A dictionary costs a hash and a comparison a value, which is wasted where values hardly repeat: then integers, dates and
//! decimals go out as DELTA_BINARY_PACKED and byte strings as DELTA_LENGTH_BYTE_ARRAY at once (Parquet format, Encodings.md).
//! The choice changes size and speed only; whatever is chosen, every value comes back.

use std::collections::HashSet;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, RecordBatch};
use arrow_schema::{DataType, TimeUnit};

/// Rows looked at.
pub(crate) const SAMPLE_ROWS: usize = 16 << 10;
/// Fewer rows tell nothing: a dictionary is tried.
const LEAST: usize = 512;
/// A column with more distinct values than this share of them gets no dictionary.
const DISTINCT: f64 = 0.1;
/// Byte strings gain more from one: they need more.
const DISTINCT_STRINGS: f64 = 0.5;
/// This many texts or fewer are in nearly every page: least and greatest say nothing.
const FEW: usize = 16;
/// Free text: longer than this on average, and hardly repeated. Its least and greatest values help nobody.
const FREE_TEXT: usize = 24;

/// What a column looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Values repeat, or nobody knows.
    Repeats,
    /// Values hardly repeat.
    Varies,
    /// Long texts that hardly repeat.
    FreeText,
    /// Texts of which there are so few that each page is likely to hold them all.
    FewTexts,
}

/// Looks at a column in all sampled batches.
pub(crate) fn habit(batches: &[RecordBatch], column: usize) -> Habit {
    let arrays: Vec<&ArrayRef> = batches.iter().map(|b| b.column(column)).collect();
    let Some(first) = arrays.first() else { return Habit::Repeats };
    let (values, distinct, bytes) = match first.data_type() {
        DataType::Int16 => primitive::<Int16Type, _>(&arrays, i64::from),
        DataType::Int32 => primitive::<Int32Type, _>(&arrays, i64::from),
        DataType::Int64 => primitive::<Int64Type, _>(&arrays, |v| v),
        DataType::Date32 => primitive::<Date32Type, _>(&arrays, i64::from),
        DataType::Timestamp(TimeUnit::Microsecond, _) => primitive::<TimestampMicrosecondType, _>(&arrays, |v| v),
        DataType::Decimal128(..) => primitive::<Decimal128Type, _>(&arrays, |v| v),
        DataType::Float32 => primitive::<Float32Type, _>(&arrays, f32::to_bits),
        DataType::Float64 => primitive::<Float64Type, _>(&arrays, f64::to_bits),
        DataType::Utf8 => strings(arrays.iter().flat_map(|a| a.as_string::<i32>().iter().flatten().map(str::as_bytes))),
        DataType::Binary => strings(arrays.iter().flat_map(|a| a.as_binary::<i32>().iter().flatten())),
        _ => return Habit::Repeats,
    };
    let is_string = matches!(first.data_type(), DataType::Utf8 | DataType::Binary);
    #[expect(clippy::cast_precision_loss, reason = "a share of a few thousand")]
    let share = distinct as f64 / values.max(1) as f64;
    match is_string {
        _ if values < LEAST => Habit::Repeats,
        true if share > DISTINCT_STRINGS => {
            if bytes / values > FREE_TEXT {
                Habit::FreeText
            } else {
                Habit::Varies
            }
        }
        true if distinct <= FEW => Habit::FewTexts,
        false if share > DISTINCT => Habit::Varies,
        _ => Habit::Repeats,
    }
}

fn primitive<T: ArrowPrimitiveType, K: std::hash::Hash + Eq>(
    arrays: &[&ArrayRef],
    key: impl Fn(T::Native) -> K,
) -> (usize, usize, usize) {
    let mut seen = HashSet::new();
    let mut values = 0;
    for array in arrays {
        let array = array.as_primitive::<T>();
        values += array.len() - array.null_count();
        seen.extend(array.iter().flatten().map(&key));
    }
    (values, seen.len(), 0)
}

fn strings<'a>(all: impl Iterator<Item = &'a [u8]>) -> (usize, usize, usize) {
    let mut seen = HashSet::new();
    let (mut values, mut bytes) = (0, 0);
    for value in all {
        values += 1;
        bytes += value.len();
        seen.insert(value);
    }
    (values, seen.len(), bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, StringArray};

    use super::*;

    #[test]
    fn columns_are_told_apart() {
        let numbers: Int64Array = (0..2000).collect();
        let few: Int64Array = (0..2000).map(|i| i % 7).collect();
        let words: StringArray = (0..2000).map(|i| Some(format!("{}", i % 5))).collect();
        let codes: StringArray = (0..2000).map(|i| Some(format!("c{i}"))).collect();
        let prose: StringArray = (0..2000).map(|i| Some(format!("a longer text that is about {i} and nothing else"))).collect();
        let all: Vec<(&str, ArrayRef)> = vec![
            ("numbers", Arc::new(numbers)),
            ("few", Arc::new(few)),
            ("words", Arc::new(words)),
            ("codes", Arc::new(codes)),
            ("prose", Arc::new(prose)),
        ];
        let batch = RecordBatch::try_from_iter(all).unwrap();
        let found: Vec<Habit> = (0..5).map(|c| habit(std::slice::from_ref(&batch), c)).collect();
        assert_eq!(found, [Habit::Varies, Habit::Repeats, Habit::FewTexts, Habit::Varies, Habit::FreeText]);
        let short = batch.slice(0, 100);
        assert!((0..5).all(|c| habit(std::slice::from_ref(&short), c) == Habit::Repeats));
        assert_eq!(habit(&[], 0), Habit::Repeats);
    }
}
