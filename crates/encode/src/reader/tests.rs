use std::io::Write as _;
use std::sync::Arc;

use arrow_array::{Array, Int64Array, StringArray};
use arrow_schema::{DataType, Field, Schema};

use super::*;
use crate::{EncodeOptions, ParquetEncoder, TableEncoder};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("note", DataType::Utf8, true)]))
}

fn batch(from: i64, to: i64) -> RecordBatch {
    let ids: Int64Array = (from..to).map(|i| (i % 7 != 0).then_some(i)).collect();
    let notes: StringArray = (from..to).map(|i| (i % 5 != 0).then(|| format!("note {i}"))).collect();
    RecordBatch::try_new(schema(), vec![Arc::new(ids), Arc::new(notes)]).unwrap()
}

fn options() -> EncodeOptions {
    EncodeOptions { zstd_level: 1, row_group_rows: 1000, row_group_bytes: 1 << 20, part_bytes: 4096, metadata: vec![] }
}

fn written() -> (Vec<u8>, crate::Encoded, Vec<RowGroups>) {
    let mut encoder = Box::new(ParquetEncoder::new(&schema(), &options(), Vec::new()).unwrap());
    let mut runs = Vec::new();
    for (from, to) in [(0, 2500), (2500, 2500), (2500, 2600)] {
        encoder.write(&batch(from, to)).unwrap();
        runs.push(encoder.end_run().unwrap());
    }
    let (bytes, encoded) = encoder.finish().unwrap();
    (bytes, encoded, runs)
}

#[test]
fn runs_stay_apart_and_read_back() {
    let (bytes, encoded, runs) = written();
    assert_eq!(runs, [(0, 3), (3, 0), (3, 1)]);
    assert_eq!(encoded.bytes, bytes.len() as u64);
    assert_eq!(encoded.sha256, dozo_model::Sha256Digest::of(&bytes));
    assert_eq!(encoded.int_range("id", runs[2]), Some((2500, 2599)));
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    for input in [ParquetInput::Memory(bytes.into()), ParquetInput::File(file)] {
        let reader = ParquetReader::open(input, &schema()).unwrap();
        let rows: Vec<RecordBatch> = reader.rows(runs[2], 64).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 100);
        assert_eq!(rows[0].column(0).to_data(), batch(2500, 2564).column(0).to_data());
        assert!(matches!(reader.rows((3, 2), 64), Err(EncodeError::RowGroups { found: 4, .. })));
    }
}

#[test]
fn other_columns_are_refused() {
    let (bytes, ..) = written();
    let other = Arc::new(Schema::new(vec![Field::new("id", DataType::Int32, true)]));
    assert!(matches!(ParquetReader::open(ParquetInput::Memory(bytes.into()), &other), Err(EncodeError::Schema(_))));
}

/// Whatever byte is damaged: an error or other rows, never a panic.
#[test]
fn damage_never_panics() {
    let (bytes, _, runs) = written();
    let step = (bytes.len() / 400).max(1);
    for i in (0..bytes.len()).step_by(step) {
        let mut damaged = bytes.clone();
        damaged[i] ^= 0x55;
        if let Ok(reader) = ParquetReader::open(ParquetInput::Memory(damaged.into()), &schema())
            && let Ok(rows) = reader.rows(runs[0], 256)
        {
            rows.for_each(drop);
        }
    }
}
