//! A unit that becomes a Parquet file: rows of one table, or of small partitions of one tree.

use std::time::Instant;

use dozo_encode::{EncodeError, EncodeOptions, ParquetEncoder, TableEncoder};
use dozo_model::{ObjectRef, Part, RowDigester};
use dozo_postgres::{PgError, RowBlock, RowDecoder, RowSource, SnapshotWorker, Unit};

use super::{PieceReport, Stages, UnitContext, name_row, prove, too_large};
use crate::backup::postgres::geo;
use crate::backup::uploads::UploadSink;
use crate::{EngineError, Result};

/// Copies the pieces of a unit into one object.
pub(super) fn copy(
    worker: &mut SnapshotWorker,
    unit: &Unit,
    shared: &UnitContext,
    key: &str,
    sink: UploadSink,
) -> Result<(ObjectRef, Vec<PieceReport>)> {
    let encode_error = |source| EngineError::Encode { object: key.to_owned(), source };
    let first = &shared.datasets[unit.pieces[0].dataset];
    let mut decoder = RowDecoder::new(&first.columns);
    let mut metadata = vec![
        ("dozo.backup".into(), format!("{}@{}", shared.source, shared.id)),
        ("dozo.table".into(), first.root.as_ref().unwrap_or(&first.locked.name).to_string()),
        ("dozo.columns".into(), serde_json::to_string(&first.columns).map_err(|e| EngineError::Internal(e.to_string()))?),
    ];
    metadata.extend(geo::metadata(&first.columns));
    let options = EncodeOptions {
        zstd_level: shared.zstd_level,
        row_group_rows: shared.budget.row_group_rows,
        row_group_bytes: shared.budget.row_group_bytes,
        part_bytes: shared.budget.parts.bytes,
        metadata,
    };
    let waited = sink.waited();
    let encoder = ParquetEncoder::new(decoder.schema(), &options, sink).map_err(encode_error)?;
    let mut encoder: Box<dyn TableEncoder<UploadSink>> = Box::new(encoder);
    let mut digester = RowDigester::default();
    let mut block = RowBlock::default();
    let mut pieces = Vec::new();
    let mut rows_before = 0;
    for piece in &unit.pieces {
        let table = &shared.datasets[piece.dataset];
        let name = table.locked.name.to_string();
        let began = Instant::now();
        let cancel = worker.cancel().clone();
        let (mut stages, versions) = Stages::begin(worker, shared, piece, &waited)?;
        let (mut bytes_read, mut rows) = (0, 0);
        {
            let mut reader = worker.copy(&table.locked, &table.columns, piece.blocks)?;
            loop {
                let t0 = Instant::now();
                let more = match reader.fill(&mut block) {
                    Ok(more) => more,
                    Err(e) if too_large(&e) => {
                        drop(reader);
                        return Err(name_row(worker, table, e));
                    }
                    Err(e) => return Err(e.into()),
                };
                let t1 = Instant::now();
                stages.receive += (t1 - t0).as_secs_f64();
                if !more {
                    break;
                }
                let batch =
                    decoder.decode(&mut block, &mut digester).map_err(|source| PgError::Wire { table: name.clone(), source })?;
                let t2 = Instant::now();
                stages.decode += (t2 - t1).as_secs_f64();
                encoder.write(&batch).map_err(encode_error)?;
                stages.encode += t2.elapsed().as_secs_f64();
                bytes_read += block.bytes() as u64;
                rows += block.rows() as u64;
                shared.progress.advance(&name, block.rows() as u64, block.bytes() as u64);
                shared.gate.pass(block.bytes() as u64, &cancel)?;
            }
        }
        let t3 = Instant::now();
        let row_groups = encoder.end_run().map_err(encode_error)?;
        stages.encode += t3.elapsed().as_secs_f64();
        if piece.blocks.to.is_none() {
            shared.progress.done(&name, rows, began.elapsed().as_secs_f64());
        }
        let fingerprint = digester.take();
        let proven = prove(worker, shared, piece, fingerprint)?;
        pieces.push(PieceReport {
            dataset: piece.dataset,
            part: Part {
                object: key.to_owned(),
                row_groups,
                fingerprint,
                blocks: piece.blocks,
                first_row: (unit.pieces.len() > 1).then_some(rows_before),
            },
            bytes_read,
            escaped: decoder.take_escaped(),
            seconds: stages.named(waited.take(), proven),
            key_range: None,
            versions,
            matched: proven.map(|(rows, _)| rows),
        });
        rows_before += rows;
    }
    let (sink, encoded) = encoder.finish().map_err(encode_error)?;
    sink.end().map_err(|_| encode_error(EncodeError::Closed))?;
    if let Some(last) = pieces.last_mut() {
        *last.seconds.entry("upload").or_default() += waited.take();
    }
    for piece in &mut pieces {
        let table = &shared.datasets[piece.dataset];
        let column = table.key_column.as_ref().and_then(|name| table.columns.iter().find(|c| &c.name == name));
        piece.key_range = column.and_then(|c| encoded.int_range(&c.parquet_name, piece.part.row_groups));
    }
    let object = ObjectRef { key: key.to_owned(), bytes: encoded.bytes, sha256: encoded.sha256 };
    Ok((object, pieces))
}
