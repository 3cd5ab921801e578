//! A unit that becomes a gzip file of texts: what COPY sends goes into it as it comes, and is taken apart only for its digest.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Instant;

use dozo_encode::{BlockWriter, EncodeError};
use dozo_model::{Algorithm, Compression, ObjectRef, Part, RowDigester};
use dozo_postgres::{CopyForm, Frame, LEAST_INTERVAL, PgError, Piece, PrintedRows, SnapshotWorker};

use super::{PieceReport, Stages, UnitContext, name_row, prove, too_large};
use crate::backup::uploads::UploadSink;
use crate::stored::GZIP_LEVEL;
use crate::{EngineError, Result};

/// Bytes of rows that are digested at a time: they stay in the second-level cache.
const BATCH: usize = 256 << 10;

/// Copies a range of a table into an object.
pub(super) fn copy(
    worker: &mut SnapshotWorker,
    piece: &Piece,
    shared: &UnitContext,
    key: &str,
    sink: UploadSink,
) -> Result<(ObjectRef, Vec<PieceReport>)> {
    let closed = |e: std::io::Error| EngineError::Encode { object: key.to_owned(), source: EncodeError::stream(&e) };
    let encode_error = |source| EngineError::Encode { object: key.to_owned(), source };
    let table = &shared.datasets[piece.dataset];
    let name = table.locked.name.to_string();
    let form = CopyForm::of(table.format);
    let frame =
        Frame::new(&table.locked.name, &table.columns, table.kind, table.format, piece.blocks.from == 0, &shared.encoding);
    let waited = sink.waited();
    let mut writer = BlockWriter::inline(Compression::Gzip, GZIP_LEVEL, shared.budget.parts.bytes, sink);
    let began = Instant::now();
    let cancel = worker.cancel().clone();
    let (mut stages, versions) = Stages::begin(worker, shared, piece, &waited)?;
    let mut digester = RowDigester::new(Algorithm::of(&table.columns));
    let mut printed = PrintedRows::new(&table.columns, form);
    let wrong = |source| PgError::Wire { table: name.clone(), source };
    let (mut bytes_read, mut rows, mut pending) = (0u64, 0u64, Vec::with_capacity(BATCH));
    writer.write_all(frame.head.as_bytes()).map_err(closed)?;
    {
        let mut reader = worker.copy_texts(&table.locked, &table.columns, piece.blocks, form)?;
        let mut more = true;
        while more {
            let t0 = Instant::now();
            pending.clear();
            while more && pending.len() < BATCH {
                match reader.piece() {
                    Ok(Some(bytes)) => pending.extend_from_slice(bytes),
                    Ok(None) => more = false,
                    Err(e) if too_large(&e) => return Err(name_row(worker, table, e)),
                    Err(e) => return Err(e.into()),
                }
            }
            let t1 = Instant::now();
            stages.receive += (t1 - t0).as_secs_f64();
            printed.add(&pending).map_err(wrong)?;
            if let Some(at) = printed.unreadable() {
                let column = table.columns.iter().filter(|c| c.loaded()).nth(at).map(|c| c.name.clone()).unwrap_or_default();
                let keep = table.root.as_ref().unwrap_or(&table.locked.name).to_string();
                return Err(PgError::Unreadable { table: name, column, text: LEAST_INTERVAL, keep }.into());
            }
            let now = printed.rows() as u64;
            printed.digest(&mut digester);
            let t2 = Instant::now();
            stages.decode += (t2 - t1).as_secs_f64();
            writer.write_all(&pending).map_err(closed)?;
            stages.encode += t2.elapsed().as_secs_f64();
            bytes_read += pending.len() as u64;
            rows += now;
            shared.progress.advance(&name, now, pending.len() as u64);
            shared.gate.pass(pending.len() as u64, &cancel)?;
        }
    }
    printed.end().map_err(wrong)?;
    let t3 = Instant::now();
    writer.write_all(frame.tail.as_bytes()).map_err(closed)?;
    let (sink, stored) = writer.finish().map_err(encode_error)?;
    sink.end().map_err(|_| encode_error(EncodeError::Closed))?;
    stages.encode += t3.elapsed().as_secs_f64();
    if piece.blocks.to.is_none() {
        shared.progress.done(&name, rows, began.elapsed().as_secs_f64());
    }
    let fingerprint = digester.take();
    let proven = prove(worker, shared, piece, fingerprint)?;
    let report = PieceReport {
        dataset: piece.dataset,
        part: Part { object: key.to_owned(), row_groups: (0, 0), fingerprint, blocks: piece.blocks, first_row: None },
        bytes_read,
        escaped: BTreeMap::new(),
        seconds: stages.named(waited.take(), proven),
        key_range: None,
        versions,
        matched: proven.map(|(rows, _)| rows),
    };
    Ok((ObjectRef { key: key.to_owned(), bytes: stored.bytes, sha256: stored.sha256 }, vec![report]))
}
