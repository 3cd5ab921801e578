//! One side of a comparison: a database under a snapshot of its own, or a backup; and the threads that ask both.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use dozo_catalog::Repository;
use dozo_digest::ManyMd5;
use dozo_model::{Algorithm, BlockRange, Column, Dataset, Fingerprint, Manifest, Profile, QualifiedName, TableFormat};
use dozo_postgres::{
    ConnInfo, Coordinator, KeyedRow, LockedTable, PgError, RowEncoder, Session, SnapshotWorker, TableInfo, TypeCatalog,
    TypeOptions, WireError, bucket_of, columns, primary_keys, tuple_texts,
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::intact::Digests;
use crate::verify::{batch_rows, open};
use crate::workers::Workers;
use crate::{EngineError, Result, texts};

/// What is compared.
#[derive(Debug, Clone)]
pub enum CompareSide {
    /// A live database.
    Database(ConnInfo),
    /// A backup.
    Backup(Box<Manifest>),
}

/// A table or partition tree.
pub(super) struct TableView {
    /// Columns in the root's order.
    pub(super) columns: Vec<Column>,
    pub(super) key: Vec<String>,
    pub(super) leaves: Vec<Arc<Leaf>>,
    pub(super) partitioned: bool,
    pub(super) rows_estimate: u64,
}

impl TableView {
    /// Tells whether its rows lie in a backup.
    pub(super) fn is_stored(&self) -> bool {
        self.leaves.iter().any(|l| matches!(l.rows, LeafRows::Stored(_)))
    }
}

/// Rows of one table or partition.
pub(super) struct Leaf {
    pub(super) name: QualifiedName,
    rows: LeafRows,
}

enum LeafRows {
    Live(LockedTable),
    Stored(Box<Dataset>),
}

/// An opened side.
pub(super) struct Side {
    pub(super) label: String,
    pub(super) tables: BTreeMap<QualifiedName, TableView>,
    pub(super) unreadable: Vec<String>,
    live: Option<(ConnInfo, Coordinator)>,
    /// Size and digest of each stored object.
    objects: Digests,
}

impl Side {
    pub(super) async fn open(side: &CompareSide, lock_timeout: Duration) -> Result<Self> {
        match side {
            CompareSide::Database(info) => Self::live(info, lock_timeout).await,
            CompareSide::Backup(manifest) => Ok(Self::stored(manifest)),
        }
    }

    async fn live(info: &ConnInfo, lock_timeout: Duration) -> Result<Self> {
        let looker = Session::connect(info).await?;
        looker.refuse_pooler().await?;
        let own = |t: &TableInfo| t.extension.is_none() && matches!(t.kind, 'r' | 'p');
        let readable = |t: &TableInfo| own(t) && t.select_granted && !t.row_security;
        let coordinator = Coordinator::begin(info, &looker, lock_timeout, readable).await?;
        let session = coordinator.session();
        let types = TypeCatalog::load(session, TypeOptions::new(&coordinator.facts, Profile::default())).await?;
        let taken: Vec<&TableInfo> = coordinator.tables.iter().filter(|t| readable(t)).collect();
        let mut found = columns(session, &types, &taken, |_, _| true).await?;
        let mut keys = primary_keys(session).await?;
        let mut tables: BTreeMap<QualifiedName, TableView> = BTreeMap::new();
        for table in taken.iter().filter(|t| t.root.is_none()) {
            let view = TableView {
                columns: found.remove(&table.oid).unwrap_or_default(),
                key: keys.remove(&table.oid).unwrap_or_default(),
                leaves: vec![],
                partitioned: table.kind == 'p',
                rows_estimate: 0,
            };
            tables.insert(table.name.clone(), view);
        }
        let mut unreadable = Vec::new();
        for table in taken.iter().filter(|t| t.has_rows()) {
            let root = table.root.as_ref().map_or(&table.name, |(_, name)| name);
            let Some(view) = tables.get_mut(root) else {
                unreadable.push(format!("{} (its root cannot be read)", table.name));
                continue;
            };
            let locked = LockedTable::own(table);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate, never negative")]
            let rows = table.rows_estimate.max(0.0) as u64;
            view.rows_estimate += rows;
            view.leaves.push(Arc::new(Leaf { name: table.name.clone(), rows: LeafRows::Live(locked) }));
        }
        // A partitioned table without partitions has no rows, and a backup does not describe it.
        tables.retain(|_, view| !view.leaves.is_empty());
        let hidden = coordinator.tables.iter().filter(|t| own(t) && !readable(t));
        unreadable.extend(hidden.map(|t| {
            let why = if t.row_security { "row-level security hides rows" } else { "permission denied" };
            format!("{} in {} ({why})", t.name, info.target())
        }));
        Ok(Self {
            label: info.target(),
            tables,
            unreadable,
            live: Some((info.clone(), coordinator)),
            objects: Digests::default(),
        })
    }

    fn stored(manifest: &Manifest) -> Self {
        let label = format!("{}@{}", manifest.source, manifest.id);
        let mut tables: BTreeMap<QualifiedName, TableView> = BTreeMap::new();
        // What is within extensions, and large objects, are not compared.
        for dataset in manifest.datasets().iter().filter(|d| d.kind.is_table()) {
            let root = dataset.root.as_ref().unwrap_or(&dataset.name);
            let view = tables.entry(root.clone()).or_insert_with(|| TableView {
                columns: dataset.columns.clone(),
                key: dataset.key.clone(),
                leaves: vec![],
                partitioned: dataset.root.is_some(),
                rows_estimate: 0,
            });
            view.rows_estimate += dataset.fingerprint.rows;
            view.leaves.push(Arc::new(Leaf { name: dataset.name.clone(), rows: LeafRows::Stored(Box::new(dataset.clone())) }));
        }
        let lost = manifest.left_out.iter().filter(|l| l.error).map(|l| format!("{} in {label} ({})", l.name, l.reason));
        Self { unreadable: lost.collect(), label, tables, live: None, objects: Digests::of(manifest) }
    }

    /// Makes sure that what was seen through the snapshot can be believed.
    pub(super) async fn still_stands(&self) -> Result<()> {
        match &self.live {
            Some((_, coordinator)) => Ok(coordinator.alive().await?),
            None => Ok(()),
        }
    }
}

/// A question about a leaf.
#[derive(Clone)]
pub(super) enum Ask {
    Fingerprint,
    Buckets,
    Rows(Arc<Vec<u16>>),
}

/// A question to one side.
pub(super) struct Item {
    pub(super) side: usize,
    pub(super) leaf: Arc<Leaf>,
    pub(super) columns: Arc<Vec<Column>>,
    pub(super) key: Arc<Vec<Column>>,
    pub(super) ask: Ask,
}

/// An answer.
pub(super) enum Answer {
    Fingerprint(Fingerprint),
    Buckets(HashMap<u16, Fingerprint>),
    Rows(Vec<KeyedRow>),
    /// A row is too large for the statement.
    TooLarge,
}

/// Threads that ask both sides.
pub(super) struct Pool<'a> {
    ctx: &'a Context,
    repository: Option<Repository>,
    live: [Option<(ConnInfo, String)>; 2],
    objects: Arc<[Digests; 2]>,
    workers: usize,
}

/// What one thread holds: a connection to each live side, made when it is needed.
struct Hands {
    cancel: CancellationToken,
    workers: [Option<SnapshotWorker>; 2],
}

impl<'a> Pool<'a> {
    pub(super) fn new(ctx: &'a Context, repository: Option<&Repository>, sides: &[Side; 2], workers: usize) -> Self {
        let live = |i: usize| sides[i].live.as_ref().map(|(info, c)| (info.clone(), c.snapshot_id.clone()));
        Self {
            ctx,
            repository: repository.cloned(),
            live: [live(0), live(1)],
            objects: Arc::new([sides[0].objects.clone(), sides[1].objects.clone()]),
            workers,
        }
    }

    /// Answers questions in any order; each with its number.
    pub(super) async fn run(&self, items: Vec<Item>) -> Result<Vec<(usize, Answer)>> {
        let start = |cancel: &CancellationToken| Ok(Hands { cancel: cancel.clone(), workers: [None, None] });
        let (live, objects, repository) = (self.live.clone(), Arc::clone(&self.objects), self.repository.clone());
        let (handle, progress) = (Handle::current(), Arc::clone(&self.ctx.progress));
        let work = move |hands: &mut Hands, (n, item): (usize, Item)| {
            let answer = match (&item.leaf.rows, &live[item.side]) {
                (LeafRows::Live(table), Some((info, snapshot))) => {
                    let worker = match &mut hands.workers[item.side] {
                        Some(worker) => worker,
                        none => none.insert(SnapshotWorker::start(info, snapshot, hands.cancel.clone())?),
                    };
                    ask_live(worker, table, &item)
                }
                (LeafRows::Stored(dataset), _) => {
                    let repository = repository.as_ref().ok_or_else(|| EngineError::Internal("no repository".into()))?;
                    ask_stored(repository, &handle, &objects[item.side], dataset, &item, &hands.cancel)
                }
                (LeafRows::Live(_), None) => Err(EngineError::Internal("no connection".into())),
            }?;
            if let Answer::Fingerprint(found) = &answer {
                progress.advance(&item.leaf.name.to_string(), found.rows, 0);
            }
            Ok((n, answer))
        };
        let numbered = items.into_iter().enumerate().collect();
        Workers::start(self.workers, numbered, &self.ctx.cancel, start, work).collect(|_| {}).await
    }
}

fn ask_live(worker: &mut SnapshotWorker, table: &LockedTable, item: &Item) -> Result<Answer> {
    let everything = BlockRange { from: 0, to: None };
    let answer = match &item.ask {
        Ask::Fingerprint => worker.fingerprint(table, &item.columns, everything).map(Answer::Fingerprint),
        Ask::Buckets => worker.bucket_sums(table, &item.columns, &item.key).map(Answer::Buckets),
        Ask::Rows(buckets) => worker.bucket_rows(table, &item.columns, &item.key, buckets).map(Answer::Rows),
    };
    match answer {
        Err(e) if crate::backup::too_large(&e) => Ok(Answer::TooLarge),
        Err(PgError::Cancelled) => Err(EngineError::Cancelled),
        other => Ok(other?),
    }
}

fn ask_stored(
    repository: &Repository,
    handle: &Handle,
    objects: &Digests,
    dataset: &Dataset,
    item: &Item,
    cancel: &CancellationToken,
) -> Result<Answer> {
    let names = |columns: &[Column]| columns.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
    let own: Vec<String> = dataset.columns.iter().filter(|c| c.loaded()).map(|c| c.name.clone()).collect();
    if matches!(item.ask, Ask::Fingerprint) && own == names(&item.columns) {
        return Ok(Answer::Fingerprint(dataset.fingerprint));
    }
    let mut rows = StoredRows::new(item, Algorithm::of(&dataset.columns));
    for part in &dataset.parts {
        let fetched = handle.block_on(repository.store().fetch(&part.object))?;
        objects.check(&part.object, fetched.bytes, fetched.sha256)?;
        if dataset.format != TableFormat::Parquet {
            let fields: Vec<&str> = own.iter().map(String::as_str).collect();
            let (row, key) = (places(&fields, &item.columns)?, places(&fields, &item.key)?);
            texts::rows(fetched.data, dataset, part, cancel, &mut |printed| {
                let picked = |places: &[usize]| printed.tuples().map(|t| pick(t, places)).collect::<Result<Vec<_>>>();
                rows.add(&picked(&row)?, &picked(&key)?)?;
                printed.clear();
                Ok(())
            })?;
            continue;
        }
        let mut row_encoder = RowEncoder::for_digest_of(&dataset.columns, &names(&item.columns))?;
        let mut key_encoder = RowEncoder::for_digest_of(&dataset.columns, &names(&item.key))?;
        let encode = |source| EngineError::Encode { object: part.object.clone(), source };
        let reader = open(fetched.data, dataset).map_err(encode)?;
        for batch in reader.rows(part.row_groups, batch_rows(dataset)).map_err(encode)? {
            if cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            let batch = batch.map_err(encode)?;
            let tuples = |encoder: &mut RowEncoder| -> Result<Vec<Vec<u8>>> {
                let mut all = Vec::with_capacity(batch.num_rows());
                encoder.encode(&batch, |tuple| {
                    all.push(tuple.to_vec());
                    Ok::<_, WireError>(())
                })?;
                Ok(all)
            };
            let keys = if rows.keyed() { tuples(&mut key_encoder)? } else { Vec::new() };
            rows.add(&tuples(&mut row_encoder)?, &keys)?;
        }
    }
    Ok(rows.answer())
}

/// Returns where some columns stand among the `fields` of a tuple.
fn places(fields: &[&str], columns: &[Column]) -> Result<Vec<usize>> {
    let place = |c: &Column| fields.iter().position(|f| *f == c.name);
    let missing = |c: &Column| EngineError::Internal(format!("the backup has no column `{}`", c.name));
    columns.iter().map(|c| place(c).ok_or_else(|| missing(c))).collect()
}

/// Makes a tuple of some fields of another.
fn pick(tuple: &[u8], places: &[usize]) -> Result<Vec<u8>> {
    let mut fields = Vec::new();
    let mut rest = tuple;
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        let short = || EngineError::Internal("a tuple that ends too early".into());
        fields.push(rest.get(..4 + length).ok_or_else(short)?);
        rest = &tail[length..];
    }
    Ok(places.iter().flat_map(|p| fields[*p]).copied().collect())
}

/// What an answer is made of, as the rows of a backup come.
struct StoredRows<'a> {
    item: &'a Item,
    md5: ManyMd5,
    sum: Fingerprint,
    buckets: HashMap<u16, Fingerprint>,
    rows: HashMap<([u8; 16], [u8; 16]), KeyedRow>,
}

impl<'a> StoredRows<'a> {
    fn new(item: &'a Item, algorithm: Algorithm) -> Self {
        let (buckets, rows) = (HashMap::new(), HashMap::new());
        Self { item, md5: ManyMd5::default(), sum: Fingerprint::none(algorithm), buckets, rows }
    }

    /// Tells whether the keys of rows are asked for.
    fn keyed(&self) -> bool {
        !self.item.key.is_empty() && !matches!(self.item.ask, Ask::Fingerprint)
    }

    fn digests(&mut self, tuples: &[Vec<u8>]) -> Vec<[u8; 16]> {
        let slices: Vec<&[u8]> = tuples.iter().map(Vec::as_slice).collect();
        let mut found = vec![[0; 16]; slices.len()];
        self.md5.digest(&slices, |i, digest| found[i] = digest);
        found
    }

    fn add(&mut self, row_tuples: &[Vec<u8>], key_tuples: &[Vec<u8>]) -> Result<()> {
        let row_digests = self.digests(row_tuples);
        if matches!(self.item.ask, Ask::Fingerprint) {
            row_digests.into_iter().for_each(|digest| self.sum.add_digest(digest));
            return Ok(());
        }
        let key_digests = if self.keyed() { self.digests(key_tuples) } else { row_digests.clone() };
        for (i, (row_digest, key_digest)) in row_digests.into_iter().zip(key_digests).enumerate() {
            let bucket = bucket_of(key_digest);
            match &self.item.ask {
                Ask::Rows(wanted) if wanted.contains(&bucket) => match self.rows.entry((key_digest, row_digest)) {
                    Entry::Occupied(mut known) => known.get_mut().rows += 1,
                    Entry::Vacant(place) => {
                        let texts = key_tuples.get(i).filter(|_| !self.item.key.is_empty());
                        let key = texts.map(|t| tuple_texts(&self.item.key, t)).transpose()?.unwrap_or_default();
                        place.insert(KeyedRow { key_digest, row_digest, key, rows: 1 });
                    }
                },
                Ask::Rows(_) => {}
                Ask::Buckets | Ask::Fingerprint => self.buckets.entry(bucket).or_default().add_digest(row_digest),
            }
        }
        Ok(())
    }

    fn answer(self) -> Answer {
        match self.item.ask {
            Ask::Fingerprint => Answer::Fingerprint(self.sum),
            Ask::Buckets => Answer::Buckets(self.buckets),
            Ask::Rows(_) => Answer::Rows(self.rows.into_values().collect()),
        }
    }
}
