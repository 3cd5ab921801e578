//! A worker's end of the snapshot: its own connection, its own locks, COPY BINARY out in blocks of rows.
//!
//! A worker is one OS thread; it owns a current-thread runtime for its connection and leaves it between blocks, so that
//! encoding never runs inside a runtime. [`RowSource`] is the seam behind which a reader without any runtime takes
//! its place.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;

use bytes::Bytes;
use dozo_model::{BlockRange, Column, Fingerprint, QualifiedName, RowVersions};
use futures::StreamExt;
use tokio::runtime::Runtime;
use tokio_postgres::CopyOutStream;
use tokio_util::sync::CancellationToken;

use crate::codec::WireError;
use crate::compare::{self, KeyedRow};
use crate::conninfo::ConnInfo;
use crate::copy::{HEADER_BYTES, RowBlock, SIGNATURE};
use crate::error::{PgError, query_error};
use crate::session::Session;
use crate::{sql, token};

/// Hands out the rows of one query, block by block.
pub trait RowSource {
    /// Fills `block` with the next rows; `false` at the end.
    ///
    /// # Errors
    /// When the connection breaks, the framing is not COPY BINARY, or the work was cancelled.
    fn fill(&mut self, block: &mut RowBlock) -> Result<bool, PgError>;
}

/// A table as a worker must find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedTable {
    /// OID.
    pub oid: u32,
    /// Name.
    pub name: QualifiedName,
    /// `relfilenode` under the coordinator's lock.
    pub filenode: u32,
}

/// One connection on the shared snapshot.
#[derive(Debug)]
pub struct SnapshotWorker {
    runtime: Runtime,
    session: Session,
    pid: i32,
    locked: HashSet<u32>,
    cancel: CancellationToken,
}

impl SnapshotWorker {
    /// Connects and takes the coordinator's snapshot.
    ///
    /// # Errors
    /// [`PgError::CoordinatorLost`] when the snapshot does not exist any more, or as [`Session::connect`].
    pub fn start(info: &ConnInfo, snapshot_id: &str, cancel: CancellationToken) -> Result<Self, PgError> {
        let runtime = current_thread()?;
        let sql = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            dozo_model::quote_literal(snapshot_id)
        );
        let (session, pid) = runtime.block_on(async {
            let session = Session::connect_as(info, "dozo worker").await?;
            session.batch("taking the snapshot", &sql).await.map_err(|e| match e {
                PgError::Query { reason, .. } => PgError::CoordinatorLost { reason },
                e => e,
            })?;
            let pid = session.query_one("asking for the backend", "SELECT pg_backend_pid()", &[]).await?.get(0);
            Ok::<_, PgError>((session, pid))
        })?;
        Ok(Self { runtime, session, pid, locked: HashSet::new(), cancel })
    }

    /// Returns its backend's pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns what stops it.
    #[must_use]
    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Locks a table for this transaction, once, and makes sure that it is the one the coordinator holds.
    ///
    /// # Errors
    /// [`PgError::Replaced`] when it is not.
    pub fn lock(&mut self, table: &LockedTable) -> Result<(), PgError> {
        if !self.locked.insert(table.oid) {
            return Ok(());
        }
        self.runtime.block_on(async {
            let what = format!("locking {}", table.name);
            self.session.batch(&what, &format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", table.name.sql())).await?;
            let row = self
                .session
                .query_one(&what, "SELECT pg_relation_filenode($1::oid), to_regclass($2)::oid", &[&table.oid, &table.name.sql()])
                .await?;
            let (filenode, oid): (Option<u32>, Option<u32>) = (row.get(0), row.get(1));
            if filenode == Some(table.filenode) && oid == Some(table.oid) {
                return Ok(());
            }
            Err(PgError::Replaced {
                table: table.name.clone(),
                reason: format!("relfilenode {filenode:?} instead of {}", table.filenode),
            })
        })
    }

    /// Counts and sums the row versions of a range of a table: a part of its change token.
    ///
    /// # Errors
    /// What the server says, or [`PgError::Cancelled`].
    pub fn row_versions(&mut self, table: &LockedTable, blocks: BlockRange) -> Result<RowVersions, PgError> {
        self.lock(table)?;
        let (session, cancel) = (&self.session, &self.cancel);
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(PgError::Cancelled),
                done = token::row_versions(session, &table.name, blocks) => done,
            }
        })
    }

    /// Lets the server compute the fingerprint of a range of a table, in the same snapshot.
    ///
    /// # Errors
    /// What the server says, or [`PgError::Cancelled`]; a row that is too large for the statement is an error, after which
    /// the worker can go on.
    pub fn fingerprint(&mut self, table: &LockedTable, columns: &[Column], blocks: BlockRange) -> Result<Fingerprint, PgError> {
        self.lock(table)?;
        let work = sql::fingerprint_of(&self.session, &table.name, columns, sql::Rows::Blocks(blocks));
        self.in_savepoint(work)
    }

    /// Lets the server compute the fingerprint of every bucket of keys of a table's own rows.
    ///
    /// # Errors
    /// As [`SnapshotWorker::fingerprint`].
    pub fn bucket_sums(
        &mut self,
        table: &LockedTable,
        columns: &[Column],
        key: &[Column],
    ) -> Result<HashMap<u16, Fingerprint>, PgError> {
        self.lock(table)?;
        self.in_savepoint(compare::bucket_sums(&self.session, &table.name, columns, key))
    }

    /// Returns the rows of some buckets, as digests with their keys.
    ///
    /// # Errors
    /// As [`SnapshotWorker::fingerprint`].
    pub fn bucket_rows(
        &mut self,
        table: &LockedTable,
        columns: &[Column],
        key: &[Column],
        buckets: &[u16],
    ) -> Result<Vec<KeyedRow>, PgError> {
        self.lock(table)?;
        self.in_savepoint(compare::bucket_rows(&self.session, &table.name, columns, key, buckets))
    }

    /// Runs a query so that the transaction survives its failure.
    fn in_savepoint<T>(&self, work: impl Future<Output = Result<T, PgError>>) -> Result<T, PgError> {
        let (session, cancel) = (&self.session, &self.cancel);
        let what = "asking a worker's connection";
        let guarded = async {
            session.batch(what, "SAVEPOINT question").await?;
            match work.await {
                Err(e @ PgError::Query { .. }) => {
                    session.batch(what, "ROLLBACK TO question").await?;
                    Err(e)
                }
                done => done,
            }
        };
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(PgError::Cancelled),
                done = guarded => done,
            }
        })
    }

    /// Starts to copy a range of a table.
    ///
    /// # Errors
    /// What the server says.
    pub fn copy<'a>(
        &'a mut self,
        table: &LockedTable,
        columns: &[Column],
        blocks: BlockRange,
    ) -> Result<impl RowSource + 'a, PgError> {
        self.lock(table)?;
        let statement = sql::copy_out(&table.name, columns, blocks);
        let what = format!("copying {}", table.name);
        let stream = self.runtime.block_on(self.session.client().copy_out(&statement)).map_err(|e| query_error(&what, e))?;
        Ok(CopyReader {
            runtime: &self.runtime,
            stream: Box::pin(stream),
            framing: Framing::default(),
            what,
            cancel: self.cancel.clone(),
            ended: false,
        })
    }
}

/// Makes a runtime for one connection on the calling thread.
pub(crate) fn current_thread() -> Result<Runtime, PgError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| PgError::Lost { what: "starting a worker".into(), source: e.into() })
}

struct CopyReader<'a> {
    runtime: &'a Runtime,
    stream: Pin<Box<CopyOutStream>>,
    framing: Framing,
    what: String,
    cancel: CancellationToken,
    ended: bool,
}

impl RowSource for CopyReader<'_> {
    fn fill(&mut self, block: &mut RowBlock) -> Result<bool, PgError> {
        block.clear();
        if self.ended {
            return Ok(false);
        }
        let (stream, framing, cancel, what, ended) =
            (&mut self.stream, &mut self.framing, &self.cancel, &self.what, &mut self.ended);
        self.runtime.block_on(async {
            while !block.full() {
                let message: Option<Result<Bytes, _>> = tokio::select! {
                    biased;
                    () = cancel.cancelled() => return Err(PgError::Cancelled),
                    message = stream.next() => message,
                };
                let wire = |source| PgError::Wire { table: what.clone(), source };
                match message {
                    Some(message) => {
                        let bytes = message.map_err(|e| query_error(what, e))?;
                        framing.add(&bytes, block).map_err(wire)?;
                    }
                    None => {
                        framing.end().map_err(wire)?;
                        *ended = true;
                        break;
                    }
                }
            }
            Ok(block.rows() > 0)
        })
    }
}

/// Takes COPY BINARY apart. Messages need not begin or end where tuples do.
#[derive(Debug, Default)]
struct Framing {
    carry: Vec<u8>,
    header: bool,
    trailer: bool,
}

impl Framing {
    fn add(&mut self, message: &[u8], block: &mut RowBlock) -> Result<(), WireError> {
        if self.carry.is_empty() {
            let used = self.consume(message, block)?;
            self.carry.extend_from_slice(&message[used..]);
        } else {
            let mut data = std::mem::take(&mut self.carry);
            data.extend_from_slice(message);
            let used = self.consume(&data, block)?;
            data.drain(..used);
            self.carry = data;
        }
        Ok(())
    }

    fn consume(&mut self, data: &[u8], block: &mut RowBlock) -> Result<usize, WireError> {
        let mut at = 0;
        if !self.header {
            if data.len() < HEADER_BYTES {
                return Ok(0);
            }
            let extension = u32::from_be_bytes([data[15], data[16], data[17], data[18]]);
            if !data.starts_with(SIGNATURE) || extension != 0 {
                return Err(WireError("the stream is not COPY BINARY".into()));
            }
            self.header = true;
            at = HEADER_BYTES;
        }
        while let Some(length) = block.take(&data[at..])? {
            if length == 0 {
                self.trailer = true;
                at += 2;
                if at != data.len() {
                    return Err(WireError("bytes after the end of the stream".into()));
                }
                break;
            }
            at += length;
        }
        Ok(at)
    }

    fn end(&self) -> Result<(), WireError> {
        if self.trailer && self.carry.is_empty() { Ok(()) } else { Err(WireError("the stream ended too early".into())) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(rows: &[Vec<Option<Vec<u8>>>]) -> Vec<u8> {
        let mut out = SIGNATURE.to_vec();
        out.extend_from_slice(&[0; 8]);
        for row in rows {
            out.extend_from_slice(&i16::try_from(row.len()).unwrap().to_be_bytes());
            for field in row {
                match field {
                    None => out.extend_from_slice(&(-1i32).to_be_bytes()),
                    Some(bytes) => {
                        out.extend_from_slice(&i32::try_from(bytes.len()).unwrap().to_be_bytes());
                        out.extend_from_slice(bytes);
                    }
                }
            }
        }
        out.extend_from_slice(&(-1i16).to_be_bytes());
        out
    }

    proptest! {
        /// Wherever the messages are cut, the rows are the same; zero-column rows are no trailer.
        #[test]
        fn cuts_do_not_matter(
            (columns, rows) in (0usize..4).prop_flat_map(|c| (Just(c), prop::collection::vec(prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..9)), c), 0..20))),
            cuts in prop::collection::vec(1usize..40, 1..30),
        ) {
            let bytes = stream(&rows);
            let mut framing = Framing::default();
            let mut block = RowBlock::default();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                framing.add(now, &mut block).unwrap();
                rest = later;
            }
            framing.end().unwrap();
            prop_assert_eq!(block.rows(), rows.len());
            block.expect(columns).unwrap();
            for (i, row) in rows.iter().enumerate() {
                for (j, field) in row.iter().enumerate() {
                    prop_assert_eq!(block.field(i, j), field.as_deref());
                }
            }
        }

        #[test]
        fn a_stream_cut_short_is_an_error(rows in prop::collection::vec(prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..9)), 2), 0..5), at in any::<prop::sample::Index>()) {
            let bytes = stream(&rows);
            let mut framing = Framing::default();
            let mut block = RowBlock::default();
            let cut = at.index(bytes.len());
            let fine = framing.add(&bytes[..cut], &mut block).is_ok() && framing.end().is_ok();
            prop_assert!(!fine);
        }
    }
}
