//! `compare`: two databases, a database and a backup, or two backups: which rows differ, by key.
//!
//! *Flow*: fingerprints per leaf on both sides → for tables that differ, sums per bucket of keys over the leaves that differ →
//! the rows of the buckets that differ, until enough differing keys are known. Each database is seen through one snapshot, under
//! locks. *Invariant*: fingerprints are compared over columns of the same name and type only; others are a difference of their
//! own. *Memory*: the rows of as many buckets as hold about [`ROWS_AT_ONCE`].

mod side;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use dozo_catalog::Repository;
use dozo_model::{Algorithm, Column, Fingerprint, QualifiedName, Stage};
use dozo_postgres::KeyedRow;
use serde::Serialize;

pub use side::CompareSide;

use crate::compare::side::{Answer, Ask, Item, Leaf, Pool, Side, TableView};
use crate::context::Context;
use crate::select::Patterns;
use crate::{EngineError, Result};

/// Rows of differing buckets that are fetched from one side at a time.
const ROWS_AT_ONCE: u64 = 200_000;

/// What to compare, and how much to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompareOptions {
    /// Patterns of tables; empty = all.
    pub tables: Vec<String>,
    /// Differing keys that are listed per table.
    pub limit: usize,
    /// Connections per side.
    pub workers: usize,
    /// How long to wait for a lock.
    pub lock_timeout: std::time::Duration,
}

/// What a comparison found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CompareReport {
    /// First side.
    pub a: String,
    /// Second side.
    pub b: String,
    /// `equal`, `differ`, or `not run`: equal as far as could be seen, but something could not be compared.
    pub outcome: &'static str,
    /// Tables of both sides.
    pub tables: Vec<TableComparison>,
    /// Tables of the first side only.
    pub only_in_a: Vec<QualifiedName>,
    /// Tables of the second side only.
    pub only_in_b: Vec<QualifiedName>,
    /// What was left out of a side because it cannot be read, and why.
    pub unreadable: Vec<String>,
}

/// One table of both sides. A partitioned table stands for its partitions.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TableComparison {
    /// Table.
    pub table: String,
    /// `equal`, `differs`, or `not run`.
    pub verdict: &'static str,
    /// Why it was not run.
    pub because: Option<String>,
    /// Fingerprint over the common columns in the first side.
    pub a: Option<Fingerprint>,
    /// The same in the second side.
    pub b: Option<Fingerprint>,
    /// Columns that only one side has, or that have other types.
    pub columns: Vec<String>,
    /// Columns that identify a row; empty: its digest does.
    pub key: Vec<String>,
    /// Partitions that differ.
    pub partitions: Vec<PartitionComparison>,
    /// Keys of the first side only.
    pub missing: Vec<RowDifference>,
    /// Keys of the second side only.
    pub extra: Vec<RowDifference>,
    /// Keys with other rows.
    pub changed: Vec<RowDifference>,
    /// Least and greatest of the differing keys that are listed.
    pub key_range: Option<(String, String)>,
    /// There are more differing keys than are listed.
    pub more: bool,
}

/// A partition that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PartitionComparison {
    /// Partition.
    pub partition: QualifiedName,
    /// Its fingerprint in the first side; none = it is not there.
    pub a: Option<Fingerprint>,
    /// Its fingerprint in the second side.
    pub b: Option<Fingerprint>,
}

/// A key whose rows differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RowDifference {
    /// The key's values as text; for a table without a key, the row's digest.
    pub key: Vec<Option<String>>,
    /// Rows in the first side.
    pub rows_in_a: u64,
    /// Rows in the second side.
    pub rows_in_b: u64,
}

impl std::fmt::Display for RowDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key: Vec<&str> = self.key.iter().map(|k| k.as_deref().unwrap_or("NULL")).collect();
        write!(f, "({})", key.join(", "))?;
        if self.rows_in_a > 1 || self.rows_in_b > 1 {
            write!(f, " ({} rows / {} rows)", self.rows_in_a, self.rows_in_b)?;
        }
        Ok(())
    }
}

/// Compares two sides.
///
/// # Errors
/// When a side cannot be read. Differences are in the report, never an error.
pub async fn compare(
    ctx: &Context,
    repository: Option<&Repository>,
    a: &CompareSide,
    b: &CompareSide,
    options: &CompareOptions,
) -> Result<CompareReport> {
    tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => Err(EngineError::Cancelled),
        done = run(ctx, repository, a, b, options) => done,
    }
}

/// A table that both sides have.
struct Pair<'a> {
    view: [&'a TableView; 2],
    /// Columns of both sides, in the first one's order, as each side has them.
    columns: [Arc<Vec<Column>>; 2],
    key: [Arc<Vec<Column>>; 2],
    found: TableComparison,
    /// Leaves to look into, by side.
    open: [Vec<Arc<Leaf>>; 2],
}

async fn run(
    ctx: &Context,
    repository: Option<&Repository>,
    a: &CompareSide,
    b: &CompareSide,
    options: &CompareOptions,
) -> Result<CompareReport> {
    ctx.progress.stage(Stage::Prepare, 0, 0);
    let sides = [Side::open(a, options.lock_timeout).await?, Side::open(b, options.lock_timeout).await?];
    let patterns = Patterns::new(&options.tables)?;
    let names: BTreeSet<&QualifiedName> = sides.iter().flat_map(|s| s.tables.keys()).collect();
    patterns.all_match(names.iter().map(|n| (*n, None)), &format!("{} and {}", sides[0].label, sides[1].label))?;
    let wanted: Vec<&QualifiedName> =
        names.into_iter().filter(|n| patterns.is_empty() || patterns.matching(n, None).is_some()).collect();
    let only = |here: usize, there: usize| -> Vec<QualifiedName> {
        let tables = |i: usize| &sides[i].tables;
        wanted.iter().filter(|n| tables(here).contains_key(n) && !tables(there).contains_key(n)).map(|n| (*n).clone()).collect()
    };
    let mut pairs: Vec<Pair<'_>> =
        wanted.iter().filter_map(|n| Some(pair(n, sides[0].tables.get(n)?, sides[1].tables.get(n)?))).collect();
    let rows: u64 = pairs.iter().flat_map(|p| p.view).map(|v| v.rows_estimate).sum();
    ctx.progress.stage(Stage::Verify, rows, 0);
    let pool = Pool::new(ctx, repository, &sides, options.workers);

    fingerprints(&pool, &mut pairs).await?;
    drill(&pool, &mut pairs, options.limit).await?;
    for side in &sides {
        side.still_stands().await?;
    }
    let tables: Vec<TableComparison> = pairs.into_iter().map(|p| p.found).collect();
    let (only_in_a, only_in_b) = (only(0, 1), only(1, 0));
    let differ = tables.iter().any(|t| t.verdict == "differs") || !only_in_a.is_empty() || !only_in_b.is_empty();
    let unreadable: Vec<String> = sides.iter().flat_map(|s| s.unreadable.clone()).collect();
    let unseen = tables.iter().any(|t| t.verdict == "not run") || !unreadable.is_empty() || tables.is_empty();
    let [a, b] = sides.map(|s| s.label);
    Ok(CompareReport {
        a,
        b,
        outcome: match (differ, unseen) {
            (true, _) => "differ",
            (false, true) => "not run",
            (false, false) => "equal",
        },
        tables,
        only_in_a,
        only_in_b,
        unreadable,
    })
}

/// Finds the columns that can be compared.
fn pair<'a>(name: &QualifiedName, a: &'a TableView, b: &'a TableView) -> Pair<'a> {
    let mut found = TableComparison { table: name.to_string(), verdict: "equal", ..TableComparison::default() };
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let texts = [a, b].map(|view| Algorithm::of(&view.columns) == Algorithm::T1);
    // Where one side holds texts, a server prints those of the other.
    let printed = texts[0] || texts[1];
    if [a, b].iter().zip(texts).any(|(view, texts)| printed && !texts && view.is_stored()) {
        found.verdict = "not run";
        found.because = Some("one backup holds binary values, the other texts".into());
    }
    let data = |view: &'a TableView| {
        let columns = view.columns.iter().filter(|c| c.loaded());
        columns.map(move |c| if printed { c.clone().printed() } else { c.clone() })
    };
    for column in data(a) {
        match data(b).find(|c| c.name == column.name) {
            None => found.columns.push(format!("{} {} is only in the first", column.name, column.type_name)),
            Some(other) if (&other.wire, &other.labels) != (&column.wire, &column.labels) => {
                found.columns.push(format!("{}: {} / {}", column.name, column.type_name, other.type_name));
            }
            Some(other) => {
                left.push(column);
                right.push(other);
            }
        }
    }
    for column in data(b).filter(|c| !data(a).any(|o| o.name == c.name)) {
        found.columns.push(format!("{} {} is only in the second", column.name, column.type_name));
    }
    let usable = |key: &[String]| !key.is_empty() && key.iter().all(|k| left.iter().any(|c| &c.name == k));
    let key: &[String] = [&a.key, &b.key].into_iter().find(|k| usable(k)).map_or(&[], Vec::as_slice);
    found.key = key.to_vec();
    let of = |columns: &[Column]| -> Vec<Column> {
        key.iter().filter_map(|k| columns.iter().find(|c| &c.name == k)).cloned().collect()
    };
    let keys = [Arc::new(of(&left)), Arc::new(of(&right))];
    Pair { view: [a, b], columns: [Arc::new(left), Arc::new(right)], key: keys, found, open: [vec![], vec![]] }
}

impl Pair<'_> {
    fn item(&self, side: usize, leaf: &Arc<Leaf>, ask: Ask) -> Item {
        Item { side, leaf: Arc::clone(leaf), columns: Arc::clone(&self.columns[side]), key: Arc::clone(&self.key[side]), ask }
    }

    fn not_run(&mut self, because: String) {
        self.found.verdict = "not run";
        self.found.because = Some(because);
    }
}

/// Compares every leaf, and notes which ones are to be looked into.
async fn fingerprints(pool: &Pool<'_>, pairs: &mut [Pair<'_>]) -> Result<()> {
    let mut items = Vec::new();
    let mut places = Vec::new();
    for (n, pair) in pairs.iter().enumerate().filter(|(_, pair)| pair.found.verdict != "not run") {
        for side in 0..2 {
            for leaf in &pair.view[side].leaves {
                items.push(pair.item(side, leaf, Ask::Fingerprint));
                places.push((n, side, Arc::clone(leaf)));
            }
        }
    }
    type Seen = BTreeMap<QualifiedName, (Fingerprint, Arc<Leaf>)>;
    let mut sums: Vec<[Seen; 2]> = pairs.iter().map(|_| [Seen::new(), Seen::new()]).collect();
    for (i, answer) in pool.run(items).await? {
        let (n, side, leaf) = &places[i];
        match answer {
            Answer::Fingerprint(found) => {
                sums[*n][*side].insert(leaf.name.clone(), (found, Arc::clone(leaf)));
            }
            Answer::TooLarge => pairs[*n].not_run(format!("a row of {} is too large for the server's fingerprint", leaf.name)),
            Answer::Buckets(_) | Answer::Rows(_) => return Err(EngineError::Internal("an answer to another question".into())),
        }
    }
    for (pair, [a, b]) in pairs.iter_mut().zip(sums) {
        if pair.found.verdict == "not run" {
            continue;
        }
        let total =
            |side: &BTreeMap<QualifiedName, (Fingerprint, Arc<Leaf>)>| side.values().map(|(f, _)| *f).sum::<Fingerprint>();
        (pair.found.a, pair.found.b) = (Some(total(&a)), Some(total(&b)));
        if !pair.found.columns.is_empty() {
            pair.found.verdict = "differs";
        }
        if pair.found.a == pair.found.b {
            continue;
        }
        pair.found.verdict = "differs";
        let partitioned = pair.view.iter().any(|v| v.partitioned);
        for name in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
            let (left, right) = (a.get(name), b.get(name));
            if left.map(|l| l.0) == right.map(|r| r.0) {
                continue;
            }
            if partitioned {
                let partition = PartitionComparison { partition: name.clone(), a: left.map(|l| l.0), b: right.map(|r| r.0) };
                pair.found.partitions.push(partition);
            }
            pair.open[0].extend(left.map(|l| Arc::clone(&l.1)));
            pair.open[1].extend(right.map(|r| Arc::clone(&r.1)));
        }
    }
    Ok(())
}

/// Finds the differing keys of the tables that differ.
async fn drill(pool: &Pool<'_>, pairs: &mut [Pair<'_>], limit: usize) -> Result<()> {
    let mut items = Vec::new();
    let mut places = Vec::new();
    for (n, pair) in pairs.iter().enumerate() {
        for side in 0..2 {
            for leaf in &pair.open[side] {
                items.push(pair.item(side, leaf, Ask::Buckets));
                places.push((n, side));
            }
        }
    }
    let mut sums: Vec<[HashMap<u16, Fingerprint>; 2]> = pairs.iter().map(|_| [HashMap::new(), HashMap::new()]).collect();
    for (i, answer) in pool.run(items).await? {
        let (n, side) = places[i];
        match answer {
            Answer::Buckets(buckets) => {
                for (bucket, sum) in buckets {
                    *sums[n][side].entry(bucket).or_default() += sum;
                }
            }
            // That they differ is known; which rows, is not.
            Answer::TooLarge => pairs[n].found.because = Some("a row is too large to look further".into()),
            Answer::Fingerprint(_) | Answer::Rows(_) => {
                return Err(EngineError::Internal("an answer to another question".into()));
            }
        }
    }
    for (pair, [a, b]) in pairs.iter_mut().zip(sums) {
        let buckets: BTreeSet<u16> = a.keys().chain(b.keys()).copied().filter(|k| a.get(k) != b.get(k)).collect();
        let size = |bucket: &u16| [&a, &b].map(|s| s.get(bucket).map_or(0, |f| f.rows)).into_iter().max().unwrap_or(0);
        let mut left: Vec<u16> = buckets.into_iter().collect();
        while !left.is_empty() {
            let mut now = Vec::new();
            let mut rows = 0;
            while let Some(bucket) = left.pop() {
                rows += size(&bucket);
                now.push(bucket);
                if rows >= ROWS_AT_ONCE {
                    break;
                }
            }
            look_into(pool, pair, &now).await?;
            let listed = pair.found.missing.len() + pair.found.extra.len() + pair.found.changed.len();
            if listed > limit || !left.is_empty() && listed == limit {
                pair.found.more = true;
                break;
            }
        }
        finish(&mut pair.found, limit);
    }
    Ok(())
}

/// Fetches the rows of some buckets and compares them key by key.
async fn look_into(pool: &Pool<'_>, pair: &mut Pair<'_>, buckets: &[u16]) -> Result<()> {
    let buckets = Arc::new(buckets.to_vec());
    let mut items = Vec::new();
    for side in 0..2 {
        items.extend(pair.open[side].iter().map(|leaf| pair.item(side, leaf, Ask::Rows(Arc::clone(&buckets)))));
    }
    let sides: Vec<usize> = items.iter().map(|i| i.side).collect();
    #[derive(Default)]
    struct Rows {
        key: Vec<Option<String>>,
        /// Digests, and how many rows have each.
        digests: [BTreeMap<[u8; 16], u64>; 2],
    }
    let mut found: HashMap<[u8; 16], Rows> = HashMap::new();
    for (i, answer) in pool.run(items).await? {
        let Answer::Rows(rows) = answer else {
            pair.found.because = Some("a row is too large to look further".into());
            return Ok(());
        };
        for KeyedRow { key_digest, row_digest, key, rows: number } in rows {
            let rows = found.entry(key_digest).or_default();
            if rows.digests[0].is_empty() {
                rows.key = if key.is_empty() { vec![Some(hex(row_digest))] } else { key };
            }
            *rows.digests[sides[i]].entry(row_digest).or_default() += number;
        }
    }
    for rows in found.into_values() {
        let [a, b] = &rows.digests;
        if a == b {
            continue;
        }
        let (a, b): (u64, u64) = (a.values().sum(), b.values().sum());
        let difference = RowDifference { key: rows.key, rows_in_a: a, rows_in_b: b };
        // Without a key, rows of one digest are equal: there are too few or too many of them.
        let keyless = pair.found.key.is_empty();
        match (a, b) {
            (_, 0) => pair.found.missing.push(difference),
            (0, _) => pair.found.extra.push(difference),
            (left, right) if keyless && left > right => pair.found.missing.push(difference),
            _ if keyless => pair.found.extra.push(difference),
            _ => pair.found.changed.push(difference),
        }
    }
    Ok(())
}

fn hex(digest: [u8; 16]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// Orders and cuts the lists.
fn finish(found: &mut TableComparison, limit: usize) {
    // Numbers by value, everything else as text.
    let order = |d: &RowDifference| -> Vec<(Option<i128>, Option<String>)> {
        d.key.iter().map(|k| (k.as_deref().and_then(|k| k.parse().ok()), k.clone())).collect()
    };
    let mut all: Vec<&RowDifference> = [&found.missing, &found.extra, &found.changed].into_iter().flatten().collect();
    all.sort_by_key(|d| order(d));
    let range = all.first().zip(all.last()).map(|(first, last)| (first.to_string(), last.to_string()));
    found.key_range = range.filter(|_| !found.key.is_empty());
    let mut room = limit;
    for list in [&mut found.missing, &mut found.extra, &mut found.changed] {
        list.sort_by_key(order);
        found.more |= list.len() > room;
        list.truncate(room);
        room -= list.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_ordered_as_numbers_and_cut() {
        let difference = |key: &str| RowDifference { key: vec![Some(key.into())], rows_in_a: 1, rows_in_b: 0 };
        let mut found = TableComparison {
            key: vec!["id".into()],
            missing: vec![difference("10"), difference("9"), difference("100")],
            changed: vec![difference("1")],
            ..TableComparison::default()
        };
        finish(&mut found, 2);
        assert_eq!(found.missing, [difference("9"), difference("10")]);
        assert!(found.changed.is_empty() && found.more);
        assert_eq!(found.key_range, Some(("(1)".into(), "(100)".into())));
    }
}
