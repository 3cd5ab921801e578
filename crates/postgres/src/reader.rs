//! A worker's end of the snapshot: its own connection, its own locks, COPY BINARY out in blocks of rows.
//!
//! A worker is one OS thread with a blocking connection ([`Wire`]): no task switch between socket and encoder.

use std::collections::{HashMap, HashSet};

use dozo_model::{BlockRange, Column, Fingerprint, QualifiedName, RowVersions};
use tokio_util::sync::CancellationToken;

use crate::codec::WireError;
use crate::compare::{self, KeyedRow};
use crate::conninfo::ConnInfo;
use crate::copy::{HEADER_BYTES, RowBlock, SIGNATURE};
use crate::error::PgError;
use crate::inspect::TableInfo;
use crate::session::pinned;
use crate::sql::{self, CopyForm, RAW_ENCODING, RowSet};
use crate::token;
use crate::wire::{TextRow, Wire};

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
    /// What its rows are.
    pub rows: RowSet,
    /// Columns by which copied rows are sorted; none = as they lie.
    pub order: Vec<String>,
}

impl LockedTable {
    /// The table's own rows, as they lie.
    #[must_use]
    pub fn own(table: &TableInfo) -> Self {
        Self { oid: table.oid, name: table.name.clone(), filenode: table.filenode, rows: RowSet::Own, order: vec![] }
    }
}

/// One connection on the shared snapshot.
#[derive(Debug)]
pub struct SnapshotWorker {
    wire: Wire,
    locked: HashSet<u32>,
    /// Whether a savepoint stands before the last COPY.
    saved: bool,
    cancel: CancellationToken,
}

impl SnapshotWorker {
    /// Connects and takes the coordinator's snapshot.
    ///
    /// # Errors
    /// [`PgError::CoordinatorLost`] when the snapshot does not exist any more, or why nobody can connect.
    pub fn start(info: &ConnInfo, snapshot_id: &str, cancel: CancellationToken) -> Result<Self, PgError> {
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            dozo_model::quote_literal(snapshot_id)
        );
        // So that a backend in a long statement notices a killed dozo; servers on other systems than Linux refuse it.
        let mut wire = Wire::connect(info, "dozo worker", &[&pinned(), RAW_ENCODING, &begin], &cancel).map_err(|e| match e {
            PgError::Query { reason, .. } => PgError::CoordinatorLost { reason },
            e => e,
        })?;
        wire.batch("setting up the session", "SAVEPOINT setting")?;
        if wire.batch("setting up the session", "SET client_connection_check_interval = '1s'").is_err() {
            wire.batch("setting up the session", "ROLLBACK TO setting")?;
        }
        Ok(Self { wire, locked: HashSet::new(), saved: false, cancel })
    }

    /// Returns its backend's pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.wire.pid()
    }

    /// Returns what stops it.
    #[must_use]
    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Locks a table for this transaction, once, and makes sure that it is the one the coordinator holds. Never waits: whoever
    /// stands in line for the table waits for the coordinator, so a worker behind them would wait for ever.
    ///
    /// # Errors
    /// [`PgError::Replaced`] when it is not; [`PgError::LockTimeout`] when somebody waits for it.
    pub fn lock(&mut self, table: &LockedTable) -> Result<(), PgError> {
        // Large objects have no lock; the snapshot shows them as they were.
        if table.rows == RowSet::LargeObjects || !self.locked.insert(table.oid) {
            return Ok(());
        }
        let (what, name) = (format!("locking {}", table.name), table.name.sql());
        self.wire.batch(&what, &format!("LOCK TABLE ONLY {name} IN ACCESS SHARE MODE NOWAIT")).map_err(|e| match e {
            PgError::LockTimeout { .. } => PgError::LockTimeout {
                what: format!("{what}: another session waits to change it"),
                timeout: "no time, for it waits for this backup".into(),
            },
            e => e,
        })?;
        let sql =
            format!("SELECT pg_relation_filenode({}::oid), to_regclass({})::oid", table.oid, dozo_model::quote_literal(&name));
        let rows = self.wire.rows(&what, &sql)?;
        let number = |i: usize| rows.first().and_then(|r| r.get(i)?.as_ref()?.parse::<u32>().ok());
        let (filenode, oid) = (number(0), number(1));
        if filenode == Some(table.filenode) && oid == Some(table.oid) {
            return Ok(());
        }
        Err(PgError::Replaced {
            table: table.name.clone(),
            reason: format!("relfilenode {filenode:?} instead of {}", table.filenode),
        })
    }

    /// Counts and sums the row versions of a range of a table: a part of its change token.
    ///
    /// # Errors
    /// What the server says, or [`PgError::Cancelled`].
    pub fn row_versions(&mut self, table: &LockedTable, blocks: BlockRange) -> Result<RowVersions, PgError> {
        self.lock(table)?;
        let what = format!("looking for changes in {}", table.name);
        let answer = self.wire.rows(&what, &token::row_versions_sql(&table.name, blocks))?;
        token::row_versions(&answer).ok_or_else(|| unexpected(what))
    }

    /// Lets the server compute the fingerprint of a range of a table, in the same snapshot.
    ///
    /// # Errors
    /// What the server says, or [`PgError::Cancelled`]; a row that is too large for the statement is an error, after which
    /// the worker can go on.
    pub fn fingerprint(&mut self, table: &LockedTable, columns: &[Column], blocks: BlockRange) -> Result<Fingerprint, PgError> {
        let what = format!("computing the fingerprint of {}", table.name);
        let answer = self.ask(table, &what, &sql::fingerprint_of_rows(&table.name, columns, table.rows.rows(blocks)))?;
        let text = answer.first().and_then(|r| r.first()?.as_deref());
        text.and_then(|t| t.parse().ok()).ok_or_else(|| unexpected(what))
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
        let what = format!("comparing {}", table.name);
        let answer = self.ask(table, &what, &compare::bucket_sums_sql(&table.name, columns, key))?;
        compare::bucket_sums(&answer).ok_or_else(|| unexpected(what))
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
        let what = format!("comparing {}", table.name);
        let answer = self.ask(table, &what, &compare::bucket_rows_sql(&table.name, columns, key, buckets))?;
        compare::bucket_rows(answer).ok_or_else(|| unexpected(what))
    }

    /// Names the row that is too large to be sent, after a COPY failed because of it: by key, or by its place, with the bytes of its
    /// texts.
    ///
    /// # Errors
    /// What the server says.
    pub fn largest_row(&mut self, table: &LockedTable, columns: &[Column], key: &[String]) -> Result<(String, u64), PgError> {
        let what = format!("looking for the largest row of {}", table.name);
        self.wire.batch(&what, "ROLLBACK TO rows")?;
        let rows = self.wire.rows(&what, &sql::largest_row(&table.name, columns, key))?;
        let found = rows.first().and_then(|r| Some((r.first()?.clone()?, r.get(1)?.as_ref()?.parse().ok()?)));
        found.ok_or_else(|| unexpected(what))
    }

    /// Runs a query about a table so that the transaction survives its failure.
    fn ask(&mut self, table: &LockedTable, what: &str, sql: &str) -> Result<Vec<TextRow>, PgError> {
        self.lock(table)?;
        self.wire.batch(what, "SAVEPOINT question")?;
        match self.wire.rows(what, sql) {
            Err(e @ PgError::Query { .. }) => {
                self.wire.batch(what, "ROLLBACK TO question")?;
                Err(e)
            }
            Ok(rows) => {
                self.wire.batch(what, "RELEASE question")?;
                Ok(rows)
            }
            Err(e) => Err(e),
        }
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
        let what = self.begin_copy(table, &sql::copy_out(table, columns, blocks, CopyForm::Binary))?;
        Ok(CopyReader { wire: &mut self.wire, framing: Framing::default(), what, cancel: self.cancel.clone(), ended: false })
    }

    /// Starts to copy a range of a table as texts.
    ///
    /// # Errors
    /// What the server says.
    pub fn copy_texts(
        &mut self,
        table: &LockedTable,
        columns: &[Column],
        blocks: BlockRange,
        form: CopyForm,
    ) -> Result<TextReader<'_>, PgError> {
        let what = self.begin_copy(table, &sql::copy_out(table, columns, blocks, form))?;
        Ok(TextReader { wire: &mut self.wire, what, cancel: self.cancel.clone() })
    }

    fn begin_copy(&mut self, table: &LockedTable, copy: &str) -> Result<String, PgError> {
        self.lock(table)?;
        let what = format!("copying {}", table.name);
        if std::mem::replace(&mut self.saved, true) {
            self.wire.batch(&what, "RELEASE rows")?;
        }
        // A row that is too large ends the COPY; which one it was is asked for afterwards.
        self.wire.batch(&what, "SAVEPOINT rows")?;
        self.wire.copy_out(&what, copy)?;
        Ok(what)
    }
}

fn unexpected(what: String) -> PgError {
    PgError::Query { what, reason: "an answer of another form".into(), sqlstate: String::new() }
}

/// Hands out what COPY sends as texts.
pub struct TextReader<'a> {
    wire: &'a mut Wire,
    what: String,
    cancel: CancellationToken,
}

impl TextReader<'_> {
    /// Returns the next bytes, as they came: rows, or pieces of one; none at the end.
    ///
    /// # Errors
    /// When the connection breaks, or the work was cancelled.
    pub fn piece(&mut self) -> Result<Option<&[u8]>, PgError> {
        if self.cancel.is_cancelled() {
            return Err(PgError::Cancelled);
        }
        self.wire.copied(&self.what)
    }
}

struct CopyReader<'a> {
    wire: &'a mut Wire,
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
        if self.cancel.is_cancelled() {
            return Err(PgError::Cancelled);
        }
        let what = &self.what;
        let bad = |source| PgError::Wire { table: what.clone(), source };
        while !block.full() {
            match self.wire.copied(what)? {
                Some(bytes) => self.framing.add(bytes, block).map_err(bad)?,
                None => {
                    self.framing.end().map_err(bad)?;
                    self.ended = true;
                    break;
                }
            }
        }
        Ok(block.rows() > 0)
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
