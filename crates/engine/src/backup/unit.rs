//! One unit of work: ranges of a table (or small partitions of one tree) become one object.
//!
//! row versions → receive → digest → decode → encode → SHA-256, all on the worker's thread; finished parts go through a bounded
//! queue to the uploader. Where the source is to be proven, the server computes the fingerprint of the same range in the same
//! snapshot.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dozo_encode::{EncodeError, EncodeOptions, ParquetEncoder, PartSink, SinkClosed, TableEncoder};
use dozo_model::{
    BackupId, BlockRange, Column, Fingerprint, ObjectRef, Part, Progress, RowDigester, RowVersions, SourceName, random_suffix,
};
use dozo_postgres::{LockedTable, PgError, RowBlock, RowDecoder, RowSource, SnapshotWorker, Unit};
use dozo_store::{Layout, Store, UploadPart};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::gate::Gate;
use super::geo;
use super::plan::PlannedTable;
use super::prove::Proving;
use super::watch::Warnings;
use crate::budget::Budget;
use crate::{EngineError, Result};

/// What all units of a run share.
pub(crate) struct UnitContext {
    pub(crate) source: SourceName,
    pub(crate) id: BackupId,
    pub(crate) datasets: Arc<Vec<PlannedTable>>,
    pub(crate) budget: Budget,
    pub(crate) zstd_level: i32,
    /// Tables whose row versions are summed with the copy.
    pub(crate) versions_wanted: HashSet<usize>,
    /// Ranges that the server is to confirm.
    pub(crate) prove: Proving,
    pub(crate) gate: Arc<Gate>,
    pub(crate) warnings: Warnings,
    pub(crate) store: Store,
    /// How many uploads may be on their way.
    pub(crate) uploads: Arc<Semaphore>,
    /// The first upload that failed.
    pub(crate) upload_failed: Arc<Mutex<Option<EngineError>>>,
    pub(crate) handle: Handle,
    pub(crate) tracker: TaskTracker,
    /// Ends all uploads: they outlive the workers that feed them.
    pub(crate) stop_uploads: CancellationToken,
    pub(crate) progress: Arc<dyn Progress>,
}

/// What became of one range.
pub(crate) struct PieceReport {
    pub(crate) dataset: usize,
    pub(crate) part: Part,
    pub(crate) bytes_read: u64,
    pub(crate) escaped: BTreeMap<String, u64>,
    pub(crate) seconds: BTreeMap<&'static str, f64>,
    pub(crate) key_range: Option<(i64, i64)>,
    pub(crate) versions: Option<RowVersions>,
    /// Rows that the server confirmed; none = it was not asked.
    pub(crate) matched: Option<u64>,
}

/// What became of a unit.
pub(crate) struct UnitReport {
    pub(crate) object: ObjectRef,
    pub(crate) pieces: Vec<PieceReport>,
    /// Bytes stored; none = it failed.
    upload: JoinHandle<Option<u64>>,
}

/// Feeds an upload, and counts how long it waits for it.
struct UploadSink {
    parts: mpsc::Sender<UploadPart>,
    waited: Arc<Mutex<Duration>>,
}

impl UploadSink {
    fn send(&self, part: UploadPart) -> std::result::Result<(), SinkClosed> {
        let began = Instant::now();
        let sent = self.parts.blocking_send(part).map_err(|_| SinkClosed);
        if let Ok(mut waited) = self.waited.lock() {
            *waited += began.elapsed();
        }
        sent
    }
}

impl PartSink for UploadSink {
    fn part(&mut self, part: Bytes) -> std::result::Result<(), SinkClosed> {
        self.send(UploadPart::Data(part))
    }
}

/// Copies a unit.
pub(crate) fn run_unit(worker: &mut SnapshotWorker, unit: &Unit, shared: &UnitContext) -> Result<UnitReport> {
    let first = &shared.datasets[unit.pieces[0].dataset];
    let table = first.root.as_ref().unwrap_or(&first.locked.name);
    let partition = (unit.pieces.len() == 1 && first.root.is_some()).then_some(first.locked.name.name.as_str());
    let random = random_suffix(&mut rand::rng(), 8);
    let key = Layout::data(&shared.source, table, partition, unit.chunk, &shared.id, &random);

    let broken = || EngineError::Internal("a worker panicked".into());
    if let Some(error) = shared.upload_failed.lock().map_err(|_| broken())?.take() {
        return Err(error);
    }
    // The end of an upload (on a disk: until it is safe there) overlaps with the next unit, not with more than that.
    let began = Instant::now();
    let permit = shared.handle.block_on(Arc::clone(&shared.uploads).acquire_owned()).map_err(|_| broken())?;
    let waited = Arc::new(Mutex::new(began.elapsed()));
    let (sender, parts) = mpsc::channel(1);
    let (store, upload_key, failed) = (shared.store.clone(), key.clone(), Arc::clone(&shared.upload_failed));
    let stop = shared.stop_uploads.clone();
    let upload = async move {
        let _permit = permit;
        let uploaded = store.upload(&upload_key, parts, &stop).await;
        match uploaded {
            Ok(size) => Some(size),
            Err(e) => {
                if let Ok(mut failed) = failed.lock() {
                    failed.get_or_insert(e.into());
                }
                None
            }
        }
    };
    let upload = shared.tracker.spawn_on(upload, &shared.handle);
    match copy_pieces(worker, unit, shared, &key, UploadSink { parts: sender, waited }) {
        Ok((object, pieces)) => Ok(UnitReport { object, pieces, upload }),
        Err(EngineError::Encode { source: EncodeError::Closed, .. }) => {
            // The upload's own error explains a sink that closed.
            shared.handle.block_on(upload).map_err(|e| EngineError::Internal(e.to_string()))?;
            Err(shared.upload_failed.lock().map_err(|_| broken())?.take().unwrap_or(EngineError::Cancelled))
        }
        Err(e) => Err(e),
    }
}

/// Waits for the uploads of all units.
///
/// # Errors
/// The first that failed, or one that stored another number of bytes than were encoded.
pub(crate) async fn all_stored(units: &mut [UnitReport], shared: &UnitContext) -> Result<()> {
    for unit in units {
        let size = (&mut unit.upload).await.map_err(|e| EngineError::Internal(e.to_string()))?;
        let Some(size) = size else {
            let failed = shared.upload_failed.lock().map_err(|_| EngineError::Internal("a worker panicked".into()))?.take();
            return Err(failed.unwrap_or(EngineError::Cancelled));
        };
        if size != unit.object.bytes {
            let (key, bytes) = (&unit.object.key, unit.object.bytes);
            return Err(EngineError::Internal(format!("{size} of {bytes} bytes of `{key}` were stored")));
        }
    }
    Ok(())
}

fn copy_pieces(
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
    let waited = Arc::clone(&sink.waited);
    let waited = || waited.lock().map(|mut w| std::mem::take(&mut *w).as_secs_f64()).unwrap_or_default();
    let mut upload = waited();
    let encoder = ParquetEncoder::new(decoder.schema(), &first.columns, &options, sink).map_err(encode_error)?;
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
        shared.gate.pass(0, &cancel)?;
        // Before the rows: the scan warms the server's cache for them.
        let wanted = shared.versions_wanted.contains(&piece.dataset);
        let versions = wanted.then(|| worker.row_versions(&table.locked, piece.blocks)).transpose()?;
        let counting = began.elapsed().as_secs_f64();
        let (mut bytes_read, mut rows) = (0, 0);
        let (mut receive, mut decode, mut encode) = (0.0, 0.0, 0.0);
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
                receive += (t1 - t0).as_secs_f64();
                if !more {
                    break;
                }
                let batch =
                    decoder.decode(&mut block, &mut digester).map_err(|source| PgError::Wire { table: name.clone(), source })?;
                let t2 = Instant::now();
                decode += (t2 - t1).as_secs_f64();
                encoder.write(&batch).map_err(encode_error)?;
                encode += t2.elapsed().as_secs_f64();
                bytes_read += block.bytes() as u64;
                rows += block.rows() as u64;
                shared.progress.advance(&name, block.rows() as u64, block.bytes() as u64);
                shared.gate.pass(block.bytes() as u64, &cancel)?;
            }
        }
        let t3 = Instant::now();
        let row_groups = encoder.end_run().map_err(encode_error)?;
        encode += t3.elapsed().as_secs_f64();
        if piece.blocks.to.is_none() {
            shared.progress.done(&name, rows, began.elapsed().as_secs_f64());
        }
        let fingerprint = digester.take();
        let t4 = Instant::now();
        let matched = if shared.prove.wants(piece.dataset, piece.blocks) {
            Some(confirm(worker, &table.locked, &table.columns, piece.blocks, fingerprint, &shared.warnings)?)
        } else {
            None
        };
        let in_encode = waited();
        upload += in_encode;
        let encode = (encode - in_encode).max(0.0);
        let mut seconds = BTreeMap::from([("receive", receive), ("decode", decode), ("encode", encode), ("upload", upload)]);
        upload = 0.0;
        seconds.extend(wanted.then_some(("versions", counting)));
        seconds.extend(matched.map(|_| ("prove", t4.elapsed().as_secs_f64())));
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
            seconds,
            key_range: None,
            versions,
            matched,
        });
        rows_before += rows;
    }
    let (sink, encoded) = encoder.finish().map_err(encode_error)?;
    sink.send(UploadPart::End).map_err(|_| encode_error(EncodeError::Closed))?;
    if let Some(last) = pieces.last_mut() {
        *last.seconds.entry("upload").or_default() += waited();
    }
    for piece in &mut pieces {
        let table = &shared.datasets[piece.dataset];
        let column = table.key_column.as_ref().and_then(|name| table.columns.iter().find(|c| &c.name == name));
        piece.key_range = column.and_then(|c| encoded.int_range(&c.parquet_name, piece.part.row_groups));
    }
    let object = ObjectRef { key: key.to_owned(), bytes: encoded.bytes, sha256: encoded.sha256 };
    Ok((object, pieces))
}

/// Says which row the server could not send.
fn name_row(worker: &mut SnapshotWorker, table: &PlannedTable, error: PgError) -> EngineError {
    match worker.largest_row(&table.locked, &table.columns, &table.key) {
        Ok((row, bytes)) => {
            PgError::RowTooLarge { table: table.locked.name.to_string(), row, bytes, reason: error.to_string() }.into()
        }
        Err(_) => error.into(),
    }
}

/// Lets the server compute the fingerprint of a range and returns how many rows it confirmed. A row that is too large for the
/// statement confirms nothing.
pub(crate) fn confirm(
    worker: &mut SnapshotWorker,
    table: &LockedTable,
    columns: &[Column],
    blocks: BlockRange,
    copied: Fingerprint,
    warnings: &Warnings,
) -> Result<u64> {
    match worker.fingerprint(table, columns, blocks) {
        Ok(found) if found == copied => Ok(copied.rows),
        Ok(found) => Err(EngineError::NotSourceMatched { table: table.name.to_string(), found, copied }),
        Err(e) if too_large(&e) => {
            warnings.add(format!("{}: a row is too large for the server's fingerprint: not confirmed", table.name));
            Ok(0)
        }
        Err(e) => Err(e.into()),
    }
}

/// Tells whether a statement failed because a row is too large for it: the verdict is *not run*, never green.
pub(crate) fn too_large(error: &PgError) -> bool {
    matches!(error, PgError::Query { sqlstate, reason, .. }
        if sqlstate == "54000" || reason.contains("invalid memory alloc request size"))
}
