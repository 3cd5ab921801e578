//! One unit of work: ranges of a table (or small partitions of one tree) become one object.
//!
//! row versions → receive → digest → decode → encode → SHA-256, all on the worker's thread (of texts nothing is decoded, and
//! "encode" is gzip); finished parts go through a bounded queue to the uploader. Where the source is to be proven, the server
//! computes the fingerprint of the same range in the same snapshot.

mod parquet;
mod texts;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use dozo_model::{
    BackupId, BlockRange, Column, Fingerprint, ObjectRef, Part, Progress, RowVersions, SourceName, TableFormat, random_suffix,
};
use dozo_postgres::{LockedTable, PgError, Piece, SnapshotWorker, Unit};
use dozo_store::Layout;

use super::copier::Place;
use super::plan::PlannedTable;
use super::prove::Proving;
use crate::backup::gate::Gate;
use crate::backup::uploads::{Upload, Uploads, Waited};
use crate::backup::warnings::Warnings;
use crate::budget::Budget;
use crate::{EngineError, Result};

/// What all units of a run share.
pub(crate) struct UnitContext {
    pub(crate) source: SourceName,
    pub(crate) id: BackupId,
    pub(crate) place: Place,
    pub(crate) datasets: Arc<Vec<PlannedTable>>,
    pub(crate) budget: Budget,
    pub(crate) zstd_level: i32,
    /// Encoding of the database.
    pub(crate) encoding: String,
    /// Tables whose row versions are summed with the copy.
    pub(crate) versions_wanted: HashSet<usize>,
    /// Ranges that the server is to confirm.
    pub(crate) prove: Proving,
    pub(crate) gate: Arc<Gate>,
    pub(crate) warnings: Warnings,
    pub(crate) uploads: Arc<Uploads>,
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
    pub(crate) upload: Upload,
}

/// Copies a unit.
pub(crate) fn run_unit(worker: &mut SnapshotWorker, unit: &Unit, shared: &UnitContext) -> Result<UnitReport> {
    let first = &shared.datasets[unit.pieces[0].dataset];
    let table = first.root.as_ref().unwrap_or(&first.locked.name);
    let partition = (unit.pieces.len() == 1 && first.root.is_some()).then_some(first.locked.name.name.as_str());
    let random = random_suffix(&mut rand::rng(), 8);
    let key = match shared.place {
        Place::Data => Layout::data(&shared.source, table, partition, unit.chunk, &shared.id, &random, first.format.as_str()),
        Place::Staging => Layout::staged(&shared.source, table, unit.chunk, &shared.id, &random),
    };
    let ((object, pieces), upload) = shared.uploads.store(&key, |sink| match (first.format, unit.pieces.as_slice()) {
        (TableFormat::Parquet, _) => parquet::copy(worker, unit, shared, &key, sink),
        (TableFormat::CsvGz | TableFormat::SqlGz, [piece]) => texts::copy(worker, piece, shared, &key, sink),
        _ => Err(EngineError::Internal("only a Parquet file holds several partitions".into())),
    })?;
    Ok(UnitReport { object, pieces, upload })
}

/// Seconds of the stages of a piece.
#[derive(Default)]
struct Stages {
    receive: f64,
    decode: f64,
    encode: f64,
    upload: f64,
    versions: Option<f64>,
}

impl Stages {
    /// Waits for the turn of a piece, and sums its row versions where that is wanted: before its rows, because the scan warms the
    /// server's cache for them.
    fn begin(
        worker: &mut SnapshotWorker,
        shared: &UnitContext,
        piece: &Piece,
        waited: &Waited,
    ) -> Result<(Self, Option<RowVersions>)> {
        let began = Instant::now();
        shared.gate.pass(0, worker.cancel())?;
        let wanted = shared.versions_wanted.contains(&piece.dataset);
        let table = &shared.datasets[piece.dataset].locked;
        let versions = wanted.then(|| worker.row_versions(table, piece.blocks)).transpose()?;
        let counting = wanted.then(|| began.elapsed().as_secs_f64());
        Ok((Self { upload: waited.take(), versions: counting, ..Self::default() }, versions))
    }

    /// Names them; `waited` for uploads is a part of what encoding took.
    fn named(self, waited: f64, proven: Option<(u64, f64)>) -> BTreeMap<&'static str, f64> {
        let encode = (self.encode - waited).max(0.0);
        let upload = self.upload + waited;
        let mut seconds =
            BTreeMap::from([("receive", self.receive), ("decode", self.decode), ("encode", encode), ("upload", upload)]);
        seconds.extend(self.versions.map(|took| ("versions", took)));
        seconds.extend(proven.map(|(_, took)| ("prove", took)));
        seconds
    }
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

/// Lets the server confirm a piece, if it is to; returns the rows that it confirmed, and the seconds that took.
fn prove(worker: &mut SnapshotWorker, shared: &UnitContext, piece: &Piece, copied: Fingerprint) -> Result<Option<(u64, f64)>> {
    if !shared.prove.wants(piece.dataset, piece.blocks) {
        return Ok(None);
    }
    let (began, table) = (Instant::now(), &shared.datasets[piece.dataset]);
    let rows = confirm(worker, &table.locked, &table.columns, piece.blocks, copied, &shared.warnings)?;
    Ok(Some((rows, began.elapsed().as_secs_f64())))
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
