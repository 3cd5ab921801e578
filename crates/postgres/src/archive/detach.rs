//! How a partition leaves its table, and how it comes back: each in one transaction with its row of the ledger.
//!
//! *Ordering* (binding), READ COMMITTED: lock every leaf against writers; in later statements, which see everything that committed
//! before the locks, compare what stands there with what was exported; then the ledger, the detach, the keys, the move. A comparison
//! under an older snapshot would miss the late row.

use std::collections::HashMap;
use std::time::Duration;

use dozo_model::{ChangeToken, Column, Fingerprint, Profile, QualifiedName, Timestamp, quote_ident};

use super::ledger::{Along, LedgerRow, LedgerState, Moved, QUARANTINE, forget_announced, ledger_says};
use super::preflight::{obstacles, referring_rows};
use crate::error::PgError;
use crate::inspect::{self, TableInfo};
use crate::session::{ServerFacts, Session};
use crate::sql::{Rows, fingerprint_of};
use crate::token::{modulo, row_versions_sql, token_shapes};
use crate::types::{self, TypeCatalog, TypeOptions};

/// A leaf as it was exported.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// OID.
    pub oid: u32,
    /// Name.
    pub name: QualifiedName,
    /// Its columns.
    pub columns: Vec<Column>,
    /// What stood in it; none = only its fingerprint can tell.
    pub token: Option<ChangeToken>,
    /// Its rows.
    pub fingerprint: Fingerprint,
}

/// What is to be done.
#[derive(Debug)]
pub struct Leave<'a> {
    /// The ledger's row: its state is what is reached, its details are filled in here.
    pub row: LedgerRow,
    /// All tables of the unit, the partition first.
    pub tables: &'a [(u32, QualifiedName)],
    /// Its leaves as they were exported.
    pub leaves: &'a [Check],
    /// Start of the server process that the tokens are of.
    pub postmaster_start: Timestamp,
    /// For whom the columns were described.
    pub profile: Profile,
    /// Whether it is still a partition; not so after a concurrent detach.
    pub attached: bool,
    /// Put an empty partition in its place.
    pub stub: bool,
    /// How long a lock may be waited for.
    pub lock_timeout: Duration,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Removal {
    /// It is done.
    Done(Box<LedgerRow>),
    /// Other rows stand there than were exported: nothing was changed.
    Changed(String),
    /// Something stands in the way: nothing was changed.
    Refused(String),
    /// Somebody else has dropped it in quarantine; the ledger says so now.
    Gone,
}

/// Runs `work` in a transaction of its own; what is not [`Removal::Done`] is rolled back.
async fn transaction(
    session: &Session,
    what: &str,
    lock_timeout: Duration,
    work: impl Future<Output = Result<Removal, PgError>>,
) -> Result<Removal, PgError> {
    let begin = format!("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '{}ms'", lock_timeout.as_millis().max(1));
    session.batch(what, &begin).await?;
    let done = work.await;
    match done {
        Ok(done @ (Removal::Done(_) | Removal::Gone)) => session.batch(what, "COMMIT").await.map(|()| done),
        Ok(other) => session.batch(what, "ROLLBACK").await.map(|()| other),
        Err(e) => {
            // The connection may be what failed.
            let _ = session.batch(what, "ROLLBACK").await;
            Err(e)
        }
    }
}

/// Lets a partition leave its table: into quarantine, or for good where the row's state is [`LedgerState::Dropped`].
///
/// # Errors
/// What the server says; nothing was changed then. A lock that was not free in time, and a cancelled statement, are errors too.
pub async fn leave(session: &Session, facts: &ServerFacts, job: &Leave<'_>) -> Result<Removal, PgError> {
    let what = format!("detaching {}", job.row.partition);
    transaction(session, &what, job.lock_timeout, leaving(session, facts, job, &what)).await
}

async fn leaving(session: &Session, facts: &ServerFacts, job: &Leave<'_>, what: &str) -> Result<Removal, PgError> {
    // Those without rows of their own, too: nobody must add a partition to them meanwhile.
    for (_, name) in job.tables {
        match session.batch(what, &format!("LOCK TABLE ONLY {} IN SHARE ROW EXCLUSIVE MODE", name.sql())).await {
            Err(PgError::Query { sqlstate, .. }) if sqlstate == "42P01" => {
                return Ok(Removal::Changed(format!("{name} is gone")));
            }
            other => other?,
        }
    }
    if let Some(why) = differs(session, facts, job).await? {
        return Ok(Removal::Changed(why));
    }
    let oids: Vec<u32> = job.tables.iter().map(|(oid, _)| *oid).collect();
    let (found, _) = obstacles(session, &[], &oids).await?;
    if let Some(why) = found.0.into_values().flatten().next() {
        return Ok(Removal::Refused(why));
    }
    let mut row = job.row.clone();
    if job.attached {
        // Behind a concurrent detach those of its table look like its own.
        row.details.own_keys = own_keys(session, what, &oids).await?;
    }
    row.details.moved = moved(session, what, job.tables).await?;
    let (parent, partition) = (row.parent.sql(), row.partition.sql());
    if job.stub {
        let stub = QualifiedName::new(&row.partition.schema, stub_name(&row));
        row.details.stub = Some(stub);
    }
    session.batch(what, &row.upsert()?).await?;
    if job.attached {
        session.batch(what, &format!("ALTER TABLE {parent} DETACH PARTITION {partition}")).await?;
    } else {
        drop_added_checks(session, what, &row).await?;
    }
    // A table in quarantine must not keep the rows that it refers to.
    for (table, key, _) in own_keys(session, what, &oids).await? {
        session.batch(what, &format!("ALTER TABLE {} DROP CONSTRAINT {}", table.sql(), quote_ident(&key))).await?;
    }
    if row.state == LedgerState::Dropped {
        session.batch(what, &format!("DROP TABLE {partition}")).await?;
    } else {
        for table in &row.details.moved {
            let mut sql = String::new();
            // What goes along must not meet another of its name there.
            for index in &table.along {
                let kind = if index.sequence { "SEQUENCE" } else { "INDEX" };
                let (old, new) = (index.name.sql(), quote_ident(&index.quarantined));
                sql.push_str(&format!("ALTER {kind} {old} RENAME TO {new}; "));
            }
            let renamed = QualifiedName::new(&table.name.schema, &table.quarantined);
            sql.push_str(&format!(
                "ALTER TABLE {} RENAME TO {}; ALTER TABLE {} SET SCHEMA {QUARANTINE}",
                table.name.sql(),
                quote_ident(&table.quarantined),
                renamed.sql(),
            ));
            session.batch(what, &sql).await?;
        }
    }
    if let Some(stub) = &row.details.stub {
        session.batch(what, &format!("CREATE TABLE {} PARTITION OF {parent} {}", stub.sql(), row.bound)).await?;
    }
    Ok(Removal::Done(Box::new(row)))
}

/// Says how what stands there differs from what was exported. Runs behind the locks, in a statement of its own snapshot.
async fn differs(session: &Session, facts: &ServerFacts, job: &Leave<'_>) -> Result<Option<String>, PgError> {
    let what = format!("looking at {} once more", job.row.partition);
    let tables = inspect::tables(session).await?;
    let by_oid: HashMap<u32, &TableInfo> = tables.iter().map(|t| (t.oid, t)).collect();
    for (oid, name) in job.tables {
        let Some(found) = by_oid.get(oid).filter(|t| &t.name == name) else {
            return Ok(Some(format!("{name} is not the table that was exported")));
        };
        if *oid == job.row.relid && job.attached {
            let place = (found.parent.as_ref(), found.bound.as_deref());
            if place != (Some(&job.row.parent), Some(job.row.bound.as_str())) {
                return Ok(Some(format!("{name} has another place in its tree")));
            }
        }
    }
    let names: Vec<&QualifiedName> = job.tables.iter().map(|(_, name)| name).collect();
    let known = |t: &&TableInfo| job.tables.iter().any(|(oid, _)| *oid == t.oid);
    if let Some(new) = tables.iter().filter(|t| !known(t)).find(|t| t.parent.as_ref().is_some_and(|p| names.contains(&p))) {
        return Ok(Some(format!("{} has a new partition {}", job.row.partition, new.name)));
    }
    let leaves: Vec<&TableInfo> = job.leaves.iter().filter_map(|l| by_oid.get(&l.oid).copied()).collect();
    let types = TypeCatalog::load(session, TypeOptions::new(facts, job.profile)).await?;
    let columns = types::columns(session, &types, &leaves, |_, _| true).await?;
    // As it was exported: behind a concurrent detach it is no partition any more, and has an order of columns of its own.
    let described = |oid: u32| job.leaves.iter().find(|l| l.oid == oid).map(|l| l.columns.clone()).unwrap_or_default();
    let shapes = token_shapes(session, facts, &leaves, described).await?;
    let restarted = facts.postmaster_start != job.postmaster_start;
    for leaf in job.leaves {
        let mut found = columns.get(&leaf.oid).cloned().unwrap_or_default();
        let place = |name: &str| leaf.columns.iter().position(|c| c.name == name);
        found.sort_by_key(|c| place(&c.name));
        let plain = |c: &Column| (c.name.clone(), c.type_name.clone(), c.wire.clone(), c.generated);
        if found.iter().map(plain).ne(leaf.columns.iter().map(plain)) {
            return Ok(Some(format!("the columns of {} have changed", leaf.name)));
        }
        let token = leaf.token.filter(|_| !restarted);
        if let Some(token) = token {
            let filenode = by_oid.get(&leaf.oid).map(|t| t.filenode);
            if filenode != Some(token.filenode) {
                return Ok(Some(format!("{} was rewritten", leaf.name)));
            }
            if shapes.get(&leaf.oid) != Some(&Ok(token.shape)) {
                return Ok(Some(format!("the definition of {} has changed", leaf.name)));
            }
            let range = dozo_model::BlockRange { from: 0, to: None };
            let row = session.query_one(&what, &as_texts(&row_versions_sql(&leaf.name, range)), &[]).await?;
            let (count, sum): (String, String) = (row.get(0), row.get(1));
            let same = count.parse() == Ok(token.versions.versions) && modulo(&sum) == Some(token.versions.version_sum);
            if !same {
                return Ok(Some(format!("rows of {} have changed", leaf.name)));
            }
        }
        if token.is_none() || job.row.state == LedgerState::Dropped {
            let found = fingerprint_of(session, &leaf.name, &leaf.columns, Rows::Own).await?;
            if found != leaf.fingerprint {
                return Ok(Some(format!("{} holds {found} instead of {}", leaf.name, leaf.fingerprint)));
            }
        }
    }
    Ok(None)
}

fn as_texts(sql: &str) -> String {
    format!("SELECT x.a::text, x.b::text FROM ({sql}) x(a, b)")
}

/// Lists the foreign keys of tables beside those that they have from a table above: of each its table, name and definition.
///
/// # Errors
/// What the server says.
pub async fn own_keys_of(session: &Session, tables: &[u32]) -> Result<Vec<(QualifiedName, String, String)>, PgError> {
    own_keys(session, "reading the foreign keys", tables).await
}

async fn own_keys(session: &Session, what: &str, tables: &[u32]) -> Result<Vec<(QualifiedName, String, String)>, PgError> {
    let sql = "SELECT n.nspname::text, c.relname::text, k.conname::text, pg_get_constraintdef(k.oid) FROM pg_constraint k
               JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE k.contype = 'f' AND k.conrelid = ANY($1) AND k.conparentid = 0 ORDER BY 1, 2, 3";
    let rows = session.query(what, sql, &[&tables]).await?;
    Ok(rows.iter().map(|r| (QualifiedName::new(r.get::<_, String>(0), r.get::<_, String>(1)), r.get(2), r.get(3))).collect())
}

/// Drops the CHECK that a concurrent detach adds in place of the bound.
async fn drop_added_checks(session: &Session, what: &str, row: &LedgerRow) -> Result<(), PgError> {
    let sql =
        "SELECT conname::text FROM pg_constraint WHERE contype = 'c' AND conrelid = $1 AND conname <> ALL($2::text[]::name[])";
    for found in session.query(what, sql, &[&row.relid, &row.details.checks]).await? {
        let name: String = found.get(0);
        let table = current_name(session, what, row.relid).await?;
        session.batch(what, &format!("ALTER TABLE {table} DROP CONSTRAINT {}", quote_ident(&name))).await?;
    }
    Ok(())
}

async fn current_name(session: &Session, what: &str, oid: u32) -> Result<String, PgError> {
    Ok(session.query_one(what, "SELECT $1::oid::regclass::text", &[&oid]).await?.get(0))
}

/// Returns the CHECK constraints of a table.
///
/// # Errors
/// What the server says.
pub async fn checks_of(session: &Session, oid: u32) -> Result<Vec<String>, PgError> {
    let sql = "SELECT coalesce(array_agg(conname::text), '{}') FROM pg_constraint WHERE contype = 'c' AND conrelid = $1";
    Ok(session.query_one("reading the constraints", sql, &[&oid]).await?.get(0))
}

/// Returns the CHECK constraints of a table, by its name.
///
/// # Errors
/// What the server says.
pub async fn checks_of_name(session: &Session, table: &QualifiedName) -> Result<Vec<String>, PgError> {
    let oid: Option<u32> =
        session.query_one("reading the constraints", "SELECT to_regclass($1)::oid", &[&table.sql()]).await?.get(0);
    checks_of(session, oid.unwrap_or(0)).await
}

/// Names in quarantine: `<oid>_<name>`, cut by bytes; those of indexes and sequences that go along, too.
async fn moved(session: &Session, what: &str, tables: &[(u32, QualifiedName)]) -> Result<Vec<Moved>, PgError> {
    let in_quarantine = |oid: u32, name: &str| cut(&format!("{oid}_{name}"));
    let mut found = Vec::new();
    for (oid, name) in tables {
        let sql = "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind = 'S' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = $1)
                      OR c.relkind = 'S' AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                         AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.deptype IN ('a', 'i')) ORDER BY 1";
        let along = session.query(what, sql, &[oid]).await?;
        let along = along.iter().map(|r| {
            let (oid, name): (u32, String) = (r.get(0), r.get(2));
            Along {
                quarantined: in_quarantine(oid, &name),
                name: QualifiedName::new(r.get::<_, String>(1), name),
                sequence: r.get(3),
            }
        });
        found.push(Moved { oid: *oid, name: name.clone(), quarantined: in_quarantine(*oid, &name.name), along: along.collect() });
    }
    Ok(found)
}

/// Name of the partition for late rows: unique to the unit, so that its indexes are, too.
fn stub_name(row: &LedgerRow) -> String {
    let suffix = row.unit.rsplit('-').next().unwrap_or_default();
    let tail = format!("_late_{suffix}");
    let base = row.partition.name.split("_late_").next().unwrap_or_default();
    let mut name = base.to_owned();
    while name.len() + tail.len() > NAME_MAX {
        name.pop();
    }
    name + &tail
}

/// Bytes of a name, at most.
const NAME_MAX: usize = 63;

fn cut(name: &str) -> String {
    let mut name = name.to_owned();
    while name.len() > NAME_MAX {
        name.pop();
    }
    name
}

/// Detaches a partition concurrently: outside of a transaction, waiting for everybody who looks at the table now. With `pending`
/// finishes one that was begun.
///
/// # Errors
/// What the server says; the detach may be pending then.
pub async fn concurrently(
    session: &Session,
    parent: &QualifiedName,
    partition: &QualifiedName,
    pending: bool,
    lock_timeout: Duration,
) -> Result<(), PgError> {
    let what = format!("detaching {partition} concurrently");
    session.batch(&what, &format!("SET lock_timeout = '{}ms'", lock_timeout.as_millis().max(1))).await?;
    let how = if pending { "FINALIZE" } else { "CONCURRENTLY" };
    let done = session.batch(&what, &format!("ALTER TABLE {} DETACH PARTITION {} {how}", parent.sql(), partition.sql())).await;
    let _ = session.batch(&what, "SET lock_timeout = 0").await;
    done
}

/// A partition that is in quarantine, as it is to be dropped.
#[derive(Debug)]
pub struct Quarantined<'a> {
    /// The ledger's row.
    pub row: &'a LedgerRow,
    /// Leaves as they were exported.
    pub leaves: &'a [Check],
    /// How long a lock may be waited for.
    pub lock_timeout: Duration,
}

/// Drops a partition in quarantine, if it still holds what was exported.
///
/// # Errors
/// What the server says; nothing was changed then.
pub async fn drop_quarantined(session: &Session, job: &Quarantined<'_>) -> Result<Removal, PgError> {
    let what = format!("dropping {}", job.row.partition);
    let work = async {
        let mut names = Vec::new();
        for table in &job.row.details.moved {
            let name = QualifiedName::new(QUARANTINE, &table.quarantined);
            let found = session.query_one(&what, "SELECT to_regclass($1)::oid", &[&name.sql()]).await?.get::<_, Option<u32>>(0);
            if found.is_none() && names.is_empty() && place_of(session, table.oid).await?.is_none() {
                session.batch(&what, &ledger_says(&job.row.unit, LedgerState::Dropped)).await?;
                return Ok(Removal::Gone);
            }
            if found != Some(table.oid) {
                return Ok(Removal::Changed(format!("{name} is not there, or is not the table that was moved there")));
            }
            session.batch(&what, &format!("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE", name.sql())).await?;
            names.push((table.oid, name));
        }
        if let Some((top, _)) = names.first() {
            let there: Vec<u32> = tables_of(session, *top).await?.into_iter().map(|(oid, _)| oid).collect();
            if there.len() != names.len() || !names.iter().all(|(oid, _)| there.contains(oid)) {
                return Ok(Removal::Changed(format!("{} has other partitions than were archived", job.row.partition)));
            }
        }
        for leaf in job.leaves {
            let Some((_, name)) = names.iter().find(|(oid, _)| *oid == leaf.oid) else {
                return Ok(Removal::Changed(format!("{} was never moved", leaf.name)));
            };
            let found = fingerprint_of(session, name, &leaf.columns, Rows::Own).await?;
            if found != leaf.fingerprint {
                return Ok(Removal::Changed(format!("{name} holds {found} instead of {}", leaf.fingerprint)));
            }
        }
        let Some((_, top)) = names.first() else { return Ok(Removal::Changed("the ledger names no table of it".into())) };
        session.batch(&what, &format!("DROP TABLE {}", top.sql())).await?;
        session.batch(&what, &ledger_says(&job.row.unit, LedgerState::Dropped)).await?;
        Ok(Removal::Done(Box::new(LedgerRow { state: LedgerState::Dropped, ..job.row.clone() })))
    };
    transaction(session, &what, job.lock_timeout, work).await
}

/// A partition that is to be back in its table.
#[derive(Debug)]
pub struct Attach<'a> {
    /// The ledger's row.
    pub row: &'a LedgerRow,
    /// Whether it lies in quarantine; not so where a concurrent detach has just ended.
    pub quarantined: bool,
    /// Rows of DEFAULT that belong into it: the partition that holds them, and which.
    pub from_default: Option<(QualifiedName, String)>,
    /// The partition that holds its range: an empty one, which gives way, or the one that its late rows go into.
    pub holder: Holder,
    /// Columns of its fingerprint.
    pub columns: &'a [Column],
    /// How long a lock may be waited for.
    pub lock_timeout: Duration,
}

/// What holds the range of a partition that is to come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// Nothing.
    None,
    /// An empty partition for late rows.
    Stub(QualifiedName),
    /// Another partition: the rows that come back, from a table of their own, go into it.
    Other {
        /// The partition.
        into: QualifiedName,
        /// The table.
        from: QualifiedName,
    },
}

/// Attaches a partition again, with its own foreign keys, and says so in the ledger.
///
/// # Errors
/// What the server says; nothing was changed then.
pub async fn attach_again(session: &Session, job: &Attach<'_>) -> Result<Removal, PgError> {
    let row = job.row;
    let what = format!("attaching {} again", row.partition);
    let work = async {
        if let Holder::Stub(stub) = &job.holder
            && !drop_empty(session, &what, &row.parent, stub).await?
        {
            return Ok(Removal::Refused(format!("{stub} holds late rows of its range: archive or move them first")));
        }
        if job.quarantined && !matches!(job.holder, Holder::Other { .. }) {
            for table in &row.details.moved {
                let (schema, now) = (&table.name.schema, QualifiedName::new(QUARANTINE, &table.quarantined));
                let mut sql = format!(
                    "ALTER TABLE {} SET SCHEMA {}; ALTER TABLE {} RENAME TO {}",
                    now.sql(),
                    quote_ident(schema),
                    QualifiedName::new(schema, &table.quarantined).sql(),
                    quote_ident(&table.name.name)
                );
                for index in &table.along {
                    let kind = if index.sequence { "SEQUENCE" } else { "INDEX" };
                    let old = QualifiedName::new(schema, &index.quarantined).sql();
                    sql.push_str(&format!("; ALTER {kind} {old} RENAME TO {}", quote_ident(&index.name.name)));
                }
                session.batch(&what, &sql).await?;
            }
        }
        if let Some((default, filter)) = &job.from_default {
            // Behind this lock no row can refer to one of them that does not yet.
            session.batch(&what, &format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", default.sql())).await?;
            if let Some(why) = referred_in_default(session, &what, &row.parent, default).await? {
                return Ok(Removal::Refused(why));
            }
            if let Some(why) = move_rows(session, &what, default, filter, &row.partition).await? {
                return Ok(Removal::Refused(why));
            }
        }
        if let Holder::Other { into: first, from: late } = &job.holder {
            session.batch(&what, &format!("LOCK TABLE {}, {} IN ACCESS EXCLUSIVE MODE", late.sql(), first.sql())).await?;
            let of = async |table: &QualifiedName| fingerprint_of(session, table, job.columns, Rows::Tree).await;
            let expected = of(first).await? + of(late).await?;
            if let Some(why) = move_rows(session, &what, late, "true", first).await? {
                return Ok(Removal::Refused(why));
            }
            let found = of(first).await?;
            if found != expected {
                return Ok(Removal::Refused(format!(
                    "{first} would hold {found} instead of {expected}: a trigger of it changes rows"
                )));
            }
            session.batch(&what, &format!("DROP TABLE {}", late.sql())).await?;
        } else {
            let attach = format!("ALTER TABLE {} ATTACH PARTITION {} {}", row.parent.sql(), row.partition.sql(), row.bound);
            session.batch(&what, &attach).await?;
            for (table, name, definition) in &row.details.own_keys {
                let sql = format!("ALTER TABLE {} ADD CONSTRAINT {} {definition}", table.sql(), quote_ident(name));
                session.batch(&what, &sql).await?;
            }
            if !job.quarantined {
                drop_added_checks(session, &what, row).await?;
            }
        }
        if row.state == LedgerState::Detaching {
            // It was announced, and never left.
            forget_announced(session, &row.unit).await?;
        } else {
            session.batch(&what, &ledger_says(&row.unit, LedgerState::Restored)).await?;
        }
        Ok(Removal::Done(Box::new(LedgerRow { state: LedgerState::Restored, ..row.clone() })))
    };
    transaction(session, &what, job.lock_timeout, work).await
}

/// Drops a partition if nothing is in it. Returns whether it is gone.
async fn drop_empty(session: &Session, what: &str, parent: &QualifiedName, table: &QualifiedName) -> Result<bool, PgError> {
    if !session.query_one(what, "SELECT to_regclass($1) IS NOT NULL", &[&table.sql()]).await?.get::<_, bool>(0) {
        return Ok(true);
    }
    session.batch(what, &format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", table.sql())).await?;
    let empty = format!("SELECT NOT EXISTS (SELECT FROM {})", table.sql());
    if !session.query_one(what, &empty, &[]).await?.get::<_, bool>(0) {
        return Ok(false);
    }
    // Foreign keys to its tree would need CASCADE while it is a part of that.
    let gone = format!("ALTER TABLE {} DETACH PARTITION {1}; DROP TABLE {1}", parent.sql(), table.sql());
    session.batch(what, &gone).await?;
    Ok(true)
}

/// Moves rows from one table, and what is below it, into another, by the names of the columns. Returns why it must not stay so.
async fn move_rows(
    session: &Session,
    what: &str,
    from: &QualifiedName,
    filter: &str,
    to: &QualifiedName,
) -> Result<Option<String>, PgError> {
    let sql = "SELECT coalesce(string_agg(quote_ident(attname), ', ' ORDER BY attnum), '') FROM pg_attribute
               WHERE attrelid = to_regclass($1)::oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''";
    let columns: String = session.query_one(what, sql, &[&to.sql()]).await?.get(0);
    let sql = format!(
        "WITH moved AS (DELETE FROM {} WHERE {filter} RETURNING {columns}),
              put AS (INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM moved RETURNING 1)
         SELECT (SELECT count(*) FROM moved), (SELECT count(*) FROM put)",
        from.sql(),
        to.sql()
    );
    let row = session.query_one(what, &sql, &[]).await?;
    let (gone, put): (i64, i64) = (row.get(0), row.get(1));
    Ok((gone != put).then(|| format!("{put} of {gone} rows of {from} would reach {to}: a trigger of it holds them back")))
}

/// Tells which rows refer to rows of a DEFAULT partition: taking those out of the tree for a moment would delete or change them.
async fn referred_in_default(
    session: &Session,
    what: &str,
    parent: &QualifiedName,
    default: &QualifiedName,
) -> Result<Option<String>, PgError> {
    let sql = "WITH RECURSIVE up(oid) AS (SELECT to_regclass($1)::oid UNION ALL SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.oid)
               SELECT oid FROM up";
    let above: Vec<u32> = session.query(what, sql, &[&parent.sql()]).await?.iter().map(|r| r.get(0)).collect();
    let oid: Option<u32> = session.query_one(what, "SELECT to_regclass($1)::oid", &[&default.sql()]).await?.get(0);
    let below: Vec<u32> = tables_of(session, oid.unwrap_or(0)).await?.into_iter().map(|(oid, _)| oid).collect();
    let tables: Vec<u32> = above.into_iter().chain(below.iter().copied()).collect();
    let found = referring_rows(session, &tables, &below).await?;
    let named = found.first().map(|r| format!("{} rows of {} refer to rows of {default}: move those by hand", r.rows, r.name));
    Ok(named)
}

/// Returns the pid of a session's backend.
///
/// # Errors
/// What the server says.
pub async fn backend_pid(session: &Session) -> Result<i32, PgError> {
    Ok(session.query_one("asking for the backend", "SELECT pg_backend_pid()", &[]).await?.get(0))
}

/// Cancels what a backend of the same role is doing.
///
/// # Errors
/// What the server says.
pub async fn cancel_backend(session: &Session, pid: i32) -> Result<(), PgError> {
    session.query("giving way", "SELECT pg_cancel_backend($1)", &[&pid]).await.map(drop)
}

/// Tells whether a concurrent detach of a partition has begun and not ended.
///
/// # Errors
/// What the server says.
pub async fn is_pending(session: &Session, oid: u32) -> Result<bool, PgError> {
    let sql = "SELECT coalesce(bool_or(inhdetachpending), false) FROM pg_inherits WHERE inhrelid = $1";
    Ok(session.query_one("looking for a pending detach", sql, &[&oid]).await?.get(0))
}

/// Tells where a table stands: attached, pending, or not a partition; none where it is gone.
///
/// # Errors
/// What the server says.
pub async fn place_of(session: &Session, oid: u32) -> Result<Option<Place>, PgError> {
    let sql = "SELECT c.relispartition, coalesce(i.inhdetachpending, false) FROM pg_class c
               LEFT JOIN pg_inherits i ON i.inhrelid = c.oid WHERE c.oid = $1";
    let rows = session.query("looking where a partition stands", sql, &[&oid]).await?;
    Ok(rows.first().map(|r| match (r.get(0), r.get(1)) {
        (_, true) => Place::Pending,
        (true, false) => Place::Attached,
        (false, false) => Place::Alone,
    }))
}

/// Where a table stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is a partition.
    Attached,
    /// A concurrent detach of it has begun and not ended.
    Pending,
    /// It is a table of its own.
    Alone,
}

/// Names the tables of a partition, itself first, by its OID.
///
/// # Errors
/// What the server says.
pub async fn tables_of(session: &Session, oid: u32) -> Result<Vec<(u32, QualifiedName)>, PgError> {
    let rows = session
        .query(
            "reading the tables of a partition",
            "WITH RECURSIVE t(oid, level) AS (SELECT $1::oid, 0 UNION ALL SELECT i.inhrelid, t.level + 1 FROM t JOIN pg_inherits i ON i.inhparent = t.oid)
             SELECT c.oid, n.nspname::text, c.relname::text FROM t JOIN pg_class c ON c.oid = t.oid
             JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY t.level, 2, 3",
            &[&oid],
        )
        .await?;
    Ok(rows.iter().map(|r| (r.get(0), QualifiedName::new(r.get::<_, String>(1), r.get::<_, String>(2)))).collect())
}

/// Returns the columns of a table, and their types as `format_type` prints them.
///
/// # Errors
/// What the server says.
pub async fn columns_now(session: &Session, table: &QualifiedName) -> Result<Vec<(String, String)>, PgError> {
    let sql = "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
               WHERE attrelid = to_regclass($1)::oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let rows = session.query("reading the columns", sql, &[&table.sql()]).await?;
    Ok(rows.iter().map(|r| (r.get(0), r.get(1))).collect())
}

/// Names who holds a lock on a table in a transaction that has lasted for some seconds.
///
/// # Errors
/// What the server says.
pub async fn holders(session: &Session, table: &QualifiedName) -> Result<Option<String>, PgError> {
    let sql = "SELECT a.pid, coalesce(a.usename::text, '?') FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
               WHERE l.relation = to_regclass($1)::oid AND l.pid <> pg_backend_pid() AND clock_timestamp() - a.xact_start > interval '1 second'
               ORDER BY a.xact_start LIMIT 1";
    let rows = session.query("looking who holds the table", sql, &[&table.sql()]).await?;
    Ok(rows.first().map(|r| format!("pid {} ({}) looks at {table}", r.get::<_, i32>(0), r.get::<_, String>(1))))
}

/// Waits for whoever is changing the partitions of a table, such as a statement whose client was killed; then forgets what was announced of
/// a partition that still stands in it. Tells whether it does.
///
/// # Errors
/// What the server says; a lock that is not free in time.
pub async fn forget_if_attached(session: &Session, row: &LedgerRow, lock_timeout: Duration) -> Result<bool, PgError> {
    let what = format!("looking whether {} still stands in its table", row.partition);
    let begin = format!("BEGIN; SET LOCAL lock_timeout = '{}ms'", lock_timeout.as_millis().max(1));
    session.batch(&what, &begin).await?;
    let work = async {
        session.batch(&what, &format!("LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE", row.parent.sql())).await?;
        let attached = place_of(session, row.relid).await? == Some(Place::Attached);
        if attached {
            forget_announced(session, &row.unit).await?;
        }
        session.batch(&what, "COMMIT").await?;
        Ok(attached)
    };
    let done = work.await;
    if done.is_err() {
        let _ = session.batch(&what, "ROLLBACK").await;
    }
    done
}
