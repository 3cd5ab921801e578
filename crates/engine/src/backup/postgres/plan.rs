//! What is backed up: which tables, in which units, and the datasets that come out of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use dozo_model::{
    BlockRange, Column, Dataset, DatasetKind, Fingerprint, KeyRange, LeftOut, ObjectRef, Part, PartitionedTable, PgType, Profile,
    QualifiedName, RowVersions, SourceMatch, TableFormat, quote_ident,
};
use dozo_postgres::{
    ChunkLimits, Coordinator, LargeObjectCensus, LockedTable, NO_ENCODING, Planned, QUARANTINE, RowSet, SequenceInfo, TableInfo,
    TokenShape, TypeCatalog, TypeOptions, Unit, canary_name, columns, key_range, large_object_columns, large_objects_name,
    partition_keys, plan_units, primary_keys, shape_digest, token_shapes,
};

use super::reuse;
use super::unit::UnitReport;
use crate::backup::report::TableWork;
use crate::budget::Budget;
use crate::context::{PostgresSettings, SourceSettings};
use crate::select::{ColumnPatterns, Patterns};
use crate::{EngineError, Result};

/// Decides about each table.
pub(crate) struct Selection {
    include: Patterns,
    exclude: Patterns,
    standby: bool,
}

enum Choice {
    Take,
    /// It comes back with its extension.
    OfExtension,
    /// A foreign table: definition only.
    Foreign,
    /// Not asked for.
    Excluded(String),
    /// Asked for, but it cannot be read.
    Unreadable(String),
}

impl Selection {
    /// Compiles the patterns; each must match something.
    pub(crate) fn new(source: &SourceSettings, standby: bool, tables: &[TableInfo]) -> Result<Self> {
        let selection = Self { include: Patterns::new(&source.include)?, exclude: Patterns::new(&source.exclude)?, standby };
        let place = format!("source `{}`", source.name);
        // An exclude pattern may match nothing: it is often written for tables that come and go.
        let large = large_objects_name();
        let named = tables.iter().map(|t| (&t.name, t.root.as_ref().map(|(_, n)| n)));
        selection.include.all_match(named.chain([(&large, None)]), &place)?;
        Ok(selection)
    }

    /// Returns the sequences that belong to what is taken: owned by such a table, or by none and not left out themselves.
    pub(crate) fn sequences(&self, tables: &[TableInfo], listed: Vec<SequenceInfo>) -> Vec<SequenceInfo> {
        let asked: BTreeSet<&QualifiedName> = tables.iter().filter(|t| self.asks_for(t)).map(|t| &t.name).collect();
        let wanted = |s: &SequenceInfo| match &s.owned_by {
            Some(owner) => asked.contains(owner),
            None => {
                self.exclude.matching(&s.name, None).is_none()
                    && (self.include.is_empty() || self.include.matching(&s.name, None).is_some())
            }
        };
        listed.into_iter().filter(wanted).collect()
    }

    fn choose(&self, table: &TableInfo) -> Choice {
        let root = table.root.as_ref().map(|(_, name)| name);
        if table.name.schema == "dozo" && (table.name.name == "restore" || table.name.name.starts_with("restore_side_")) {
            return Choice::Excluded("progress of an interrupted restore".into());
        }
        if table.extension.is_some() && table.configuration.is_none() {
            return Choice::OfExtension;
        }
        // What is in quarantine is in the archive, proven. Whoever wants it all the same names the schema.
        if table.name.schema == QUARANTINE && !self.include.matching(&table.name, None).is_some_and(|p| p.contains(QUARANTINE)) {
            return Choice::Excluded("archived: it waits in quarantine".into());
        }
        // A pattern for business tables does not mean that nobody wants to know how fresh a restore is.
        let canary = table.name == canary_name();
        if !canary && !self.include.is_empty() && self.include.matching(&table.name, root).is_none() {
            return Choice::Excluded("not included".into());
        }
        if let Some(pattern) = self.exclude.matching(&table.name, root) {
            return Choice::Excluded(format!("excluded by {pattern}"));
        }
        if canary && (!table.select_granted || table.row_security) {
            return Choice::Excluded("the canary may not be read: GRANT SELECT ON dozo.canary".into());
        }
        if table.kind == 'f' {
            return Choice::Foreign;
        }
        if !table.select_granted {
            return Choice::Unreadable("permission denied".into());
        }
        if table.row_security {
            return Choice::Unreadable("row-level security would hide rows from this role".into());
        }
        if self.standby && table.persistence == 'u' && table.kind == 'r' {
            return Choice::Unreadable("an unlogged table cannot be read on a standby".into());
        }
        Choice::Take
    }

    /// Tells why large objects are left out, if they are.
    pub(crate) fn without_large_objects(&self) -> Option<String> {
        let name = large_objects_name();
        if let Some(pattern) = self.exclude.matching(&name, None) {
            return Some(format!("excluded by {pattern}"));
        }
        (!self.include.is_empty() && self.include.matching(&name, None).is_none()).then(|| "not included".to_owned())
    }

    /// Tells whether a table is to be locked and read.
    pub(crate) fn wants(&self, table: &TableInfo) -> bool {
        matches!(self.choose(table), Choice::Take)
    }

    /// Tells whether a table is asked for, readable or not.
    pub(crate) fn asks_for(&self, table: &TableInfo) -> bool {
        matches!(self.choose(table), Choice::Take | Choice::Unreadable(_))
    }

    /// Lists what is not in the backup, with the reason.
    pub(crate) fn left_out(&self, tables: &[TableInfo]) -> Vec<LeftOut> {
        let reason = |t: &TableInfo| match self.choose(t) {
            Choice::Take | Choice::OfExtension => None,
            Choice::Foreign => Some(("foreign table: its rows live elsewhere".to_owned(), false)),
            Choice::Excluded(why) => Some((why, false)),
            Choice::Unreadable(why) => Some((why, true)),
        };
        tables
            .iter()
            .filter_map(|t| {
                let (reason, error) = reason(t)?;
                Some(LeftOut { name: t.name.clone(), reason, error, needed_by: vec![] })
            })
            .collect()
    }

    /// Lists the tables that pg_dump must not touch, as its patterns.
    pub(crate) fn hidden_from_dump(&self, tables: &[TableInfo]) -> Vec<(u32, String)> {
        let hidden = tables.iter().filter(|t| matches!(self.choose(t), Choice::Excluded(_) | Choice::Unreadable(_)));
        hidden.map(|t| (t.oid, format!("{}.{}", quote_ident(&t.name.schema), quote_ident(&t.name.name)))).collect()
    }
}

/// A table as workers need it.
#[derive(Debug, Clone)]
pub(crate) struct PlannedTable {
    pub(crate) locked: LockedTable,
    pub(crate) root: Option<QualifiedName>,
    pub(crate) parent: Option<QualifiedName>,
    pub(crate) bound: Option<String>,
    pub(crate) columns: Vec<Column>,
    pub(crate) kind: DatasetKind,
    pub(crate) key_column: Option<String>,
    /// Columns of the primary key.
    pub(crate) key: Vec<String>,
    /// Form of its objects.
    pub(crate) format: TableFormat,
    /// Shape of its change token, or why it has none.
    pub(crate) shape: TokenShape,
    blocks: u64,
    heap: bool,
    rows_estimate: f64,
}

impl Planned for &PlannedTable {
    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn divisible(&self) -> bool {
        self.heap
    }

    fn family(&self) -> Option<&QualifiedName> {
        // Texts of several tables in one file would be nobody's.
        self.root.as_ref().filter(|_| self.format == TableFormat::Parquet)
    }

    fn same_columns(&self, other: &Self) -> bool {
        self.columns == other.columns
    }
}

/// Everything that the workers do.
pub(crate) struct Plan {
    pub(crate) budget: Budget,
    pub(crate) tables: Arc<Vec<PlannedTable>>,
    pub(crate) partitioned: Vec<PartitionedTable>,
    /// Patterns of formats that no table matches.
    pub(crate) unused: Vec<String>,
}

impl Plan {
    /// Reads columns and sizes under the snapshot and cuts the tables into units.
    pub(crate) async fn new(
        coordinator: &Coordinator,
        settings: &PostgresSettings,
        large: &LargeObjectCensus,
        budget: Budget,
    ) -> Result<Self> {
        let session = coordinator.session();
        let types = TypeCatalog::load(session, TypeOptions::new(&coordinator.facts, settings.profile)).await?;
        let locked: Vec<&TableInfo> = coordinator.tables.iter().filter(|t| coordinator.locked.contains(&t.oid)).collect();
        let with_rows: Vec<&TableInfo> = locked.iter().copied().filter(|t| t.has_rows()).collect();
        let text_only = ColumnPatterns::new(&settings.text_only)?;
        let asked = |t: &TableInfo, column: &str| text_only.matches(&t.name, t.root.as_ref().map(|(_, n)| n), column);
        let mut all_columns = columns(session, &types, &with_rows, asked).await?;
        refuse_unknown_encoding(coordinator, settings, &with_rows, &all_columns)?;
        let formats = Formats::new(settings)?;
        let mut format_of = HashMap::new();
        for table in &with_rows {
            let format = formats.of(table.root.as_ref().map_or(&table.name, |(_, root)| root))?;
            format_of.insert(table.oid, format);
            if format != TableFormat::Parquet {
                let columns = all_columns.entry(table.oid).or_default();
                *columns = Column::printed_all(std::mem::take(columns));
            }
        }
        let blocks = coordinator.blocks().await?;
        let keys = partition_keys(session).await?;
        let mut primary = primary_keys(session).await?;
        let columns_of = |oid: u32| all_columns.get(&oid).cloned().unwrap_or_default();
        let mut shapes = token_shapes(session, &coordinator.facts, &with_rows, columns_of).await?;
        let kind = |t: &TableInfo| match (&t.configuration, &t.root) {
            (Some(_), _) => DatasetKind::Configuration,
            (None, Some(_)) => DatasetKind::Partition,
            (None, None) => DatasetKind::Table,
        };
        let mut tables: Vec<PlannedTable> = with_rows
            .iter()
            .map(|t| PlannedTable {
                locked: LockedTable { rows: row_set(t), ..LockedTable::own(t) },
                kind: kind(t),
                root: t.root.as_ref().map(|(_, name)| name.clone()),
                parent: t.parent.clone(),
                bound: t.bound.clone(),
                columns: all_columns.remove(&t.oid).unwrap_or_default(),
                key_column: t.root.as_ref().and_then(|(oid, _)| keys.get(oid).cloned()),
                key: primary.remove(&t.oid).unwrap_or_default(),
                format: format_of.get(&t.oid).copied().unwrap_or_default(),
                shape: match t.configuration {
                    Some(_) => Err("only some of its rows are copied"),
                    None => shapes.remove(&t.oid).unwrap_or(Err("its columns cannot be described")),
                },
                blocks: blocks.get(&t.oid).copied().unwrap_or(0),
                heap: t.access_method == "heap" && t.configuration.is_none(),
                rows_estimate: t.rows_estimate.max(0.0),
            })
            .collect();
        if !large.groups.is_empty() {
            let format = formats.of(&large_objects_name())?;
            tables.push(PlannedTable::large_objects(large, settings.profile, format));
        }
        let partitioned = locked.iter().filter(|t| t.kind == 'p');
        let partitioned = partitioned.map(|t| PartitionedTable { name: t.name.clone(), parent: t.parent.clone() }).collect();
        let unused = formats.unused(tables.iter().map(|t| t.root.as_ref().unwrap_or(&t.locked.name)));
        Ok(Self { budget, tables: Arc::new(tables), partitioned, unused })
    }

    /// Lets rows be copied in the order of some columns. Returns why they cannot be.
    pub(crate) fn sort(&mut self, columns: &[String]) -> Option<String> {
        for table in Arc::make_mut(&mut self.tables) {
            if let Some(missing) = columns.iter().find(|c| !table.columns.iter().any(|own| &own.name == *c)) {
                return Some(format!("{} has no column `{missing}` to sort by", table.locked.name));
            }
            table.locked.order = columns.to_vec();
        }
        None
    }

    /// Returns a column that no restore would fill.
    pub(crate) fn unrestorable(&self) -> Option<(&QualifiedName, &str)> {
        let lost = |t: &'_ PlannedTable| t.columns.iter().position(|c| c.text_only);
        self.tables.iter().find_map(|t| Some((&t.locked.name, t.columns[lost(t)?].name.as_str())))
    }

    /// Cuts the tables that are to be copied into units, largest first.
    pub(crate) fn units(&self, outcome: &[Outcome]) -> Vec<Unit> {
        let chosen: Vec<usize> = (0..self.tables.len()).filter(|i| matches!(outcome[*i], Outcome::Copy { .. })).collect();
        let tables: Vec<&PlannedTable> = chosen.iter().map(|i| &self.tables[*i]).collect();
        // Enough units that no worker is left alone with the last one, none so small that files become many.
        let all: u64 = tables.iter().map(|t| t.blocks).sum();
        let even = all / (self.budget.workers as u64 * UNITS_PER_WORKER);
        let most = self.budget.unit_bytes / BLOCK;
        let limits =
            ChunkLimits { blocks: even.clamp((self.budget.unit_least / BLOCK).min(most), most), small_blocks: (4 << 20) / BLOCK };
        let mut units = plan_units(&tables, limits);
        units.iter_mut().flat_map(|u| &mut u.pieces).for_each(|p| p.dataset = chosen[p.dataset]);
        units
    }

    /// Cuts tables into ranges whose row versions are summed at a time.
    pub(crate) fn version_ranges(&self, tables: &[usize]) -> Vec<(usize, BlockRange)> {
        let mut ranges = Vec::new();
        for i in tables {
            let blocks = self.tables[*i].blocks;
            let count = blocks.div_ceil(VERSION_BLOCKS).max(1);
            let size = blocks.div_ceil(count);
            ranges.extend((0..count).map(|n| (*i, BlockRange { from: n * size, to: (n + 1 < count).then_some((n + 1) * size) })));
        }
        ranges.sort_by_key(|(i, range)| std::cmp::Reverse(self.tables[*i].weight(*range)));
        ranges
    }

    /// Returns estimated rows and heap bytes of what is to be copied.
    pub(crate) fn estimate(&self, outcome: &[Outcome]) -> (u64, u64) {
        let copied = || self.tables.iter().zip(outcome).filter(|(_, o)| matches!(o, Outcome::Copy { .. })).map(|(t, _)| t);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate, never negative")]
        let rows = copied().map(|t| t.rows_estimate).sum::<f64>() as u64;
        (rows, copied().map(|t| t.blocks * BLOCK).sum())
    }

    /// Puts the units' results and what is reused together into datasets with what they cost, and the objects that were written.
    pub(crate) fn datasets(&self, units: Vec<UnitReport>, outcome: Vec<Outcome>) -> (Vec<(Dataset, TableWork)>, Vec<ObjectRef>) {
        let mut sums: Vec<Sum> = self.tables.iter().map(|_| Sum::default()).collect();
        let mut objects = Vec::new();
        for unit in units {
            let rows: u64 = unit.pieces.iter().map(|p| p.part.fingerprint.rows).sum();
            for piece in unit.pieces {
                let share = if rows == 0 {
                    0
                } else {
                    u128::from(unit.object.bytes) * u128::from(piece.part.fingerprint.rows) / u128::from(rows)
                };
                let sum = &mut sums[piece.dataset];
                sum.work.written += u64::try_from(share).unwrap_or(0);
                sum.bytes_read += piece.bytes_read;
                for (column, count) in piece.escaped {
                    *sum.escaped.entry(column).or_default() += count;
                }
                for (stage, seconds) in piece.seconds {
                    *sum.work.seconds.entry(stage.to_owned()).or_default() += seconds;
                }
                if let Some((min, max)) = piece.key_range {
                    sum.range = Some(sum.range.map_or((min, max), |(a, b)| (a.min(min), b.max(max))));
                }
                sum.versions += piece.versions.unwrap_or_default();
                sum.matched += piece.matched.unwrap_or(0);
                sum.asked += usize::from(piece.matched.is_some());
                sum.parts.push(piece.part);
            }
            objects.push(unit.object);
        }
        let datasets = self.tables.iter().zip(sums).zip(outcome).map(|((table, sum), outcome)| match outcome {
            Outcome::Reuse(dataset) => (*dataset, TableWork::default()),
            Outcome::Copy { versions, .. } => table.dataset(sum, versions),
        });
        (datasets.collect(), objects)
    }
}

/// The formats of tables.
struct Formats<'a> {
    settings: &'a PostgresSettings,
    by_pattern: Vec<(Patterns, &'a str, TableFormat)>,
}

impl<'a> Formats<'a> {
    fn new(settings: &'a PostgresSettings) -> Result<Self> {
        let compile = |(pattern, format): &'a (String, TableFormat)| {
            Ok((Patterns::new(std::slice::from_ref(pattern))?, pattern.as_str(), *format))
        };
        Ok(Self { settings, by_pattern: settings.formats.iter().map(compile).collect::<Result<_>>()? })
    }

    /// Returns the format of a table, or of a tree by its root: fingerprints of partitions add up only in one form.
    fn of(&self, name: &QualifiedName) -> Result<TableFormat> {
        let matching: Vec<_> = self.by_pattern.iter().filter(|(p, ..)| p.matching(name, None).is_some()).collect();
        // A table's own name says more than a pattern of many.
        let exact = |pattern: &str| !pattern.contains(['*', '?', '[', '{']);
        let named = matching.iter().any(|(_, pattern, _)| exact(pattern));
        let mut matching = matching.into_iter().filter(|(_, pattern, _)| exact(pattern) == named);
        let Some((_, pattern, format)) = matching.next() else { return Ok(self.settings.format) };
        match matching.find(|(.., other)| other != format) {
            None => Ok(*format),
            Some((_, other, _)) => {
                Err(EngineError::Formats { table: name.clone(), patterns: [(*pattern).to_owned(), (*other).to_owned()] })
            }
        }
    }

    /// Returns the patterns that match no table: often of tables that come and go.
    fn unused<'t>(&self, roots: impl Iterator<Item = &'t QualifiedName>) -> Vec<String> {
        let roots: Vec<_> = roots.collect();
        let unused = self.by_pattern.iter().filter(|(p, ..)| !roots.iter().any(|name| p.matching(name, None).is_some()));
        unused.map(|(_, pattern, _)| (*pattern).to_owned()).collect()
    }
}

/// Where somebody asked for it, texts of which nobody knows the encoding are refused, all columns named at once.
fn refuse_unknown_encoding(
    coordinator: &Coordinator,
    settings: &PostgresSettings,
    tables: &[&TableInfo],
    columns: &HashMap<u32, Vec<Column>>,
) -> Result<()> {
    if !settings.refuse_unknown_encoding || coordinator.facts.encoding != NO_ENCODING {
        return Ok(());
    }
    fn raw(wire: &PgType) -> bool {
        matches!(wire, PgType::Raw(_)) || matches!(wire, PgType::Array(inner) if raw(inner))
    }
    let named = tables.iter().flat_map(|t| {
        let texts = columns.get(&t.oid).into_iter().flatten().filter(|c| raw(&c.wire));
        texts.map(|c| format!("{}.{}", t.name, c.name))
    });
    let columns: Vec<String> = named.collect();
    if columns.is_empty() { Ok(()) } else { Err(EngineError::UnknownEncoding { columns }) }
}

/// Bytes of a heap block as the catalogs count; servers built with another size have other chunks, nothing else.
const BLOCK: u64 = 8192;
/// Units that each worker does, where there is enough to do.
const UNITS_PER_WORKER: u64 = 8;
/// Blocks whose row versions one statement sums: 1 GB.
const VERSION_BLOCKS: u64 = 1 << 17;

/// What becomes of a table.
pub(crate) enum Outcome {
    /// It is copied; why, where there is a backup to lean on, and its row versions, where they were summed already.
    Copy { because: Option<String>, versions: Option<RowVersions> },
    /// The objects of an earlier backup are named again.
    Reuse(Box<Dataset>),
}

/// What the pieces of a table add up to.
#[derive(Default)]
struct Sum {
    parts: Vec<Part>,
    bytes_read: u64,
    escaped: BTreeMap<String, u64>,
    range: Option<(i64, i64)>,
    versions: RowVersions,
    matched: u64,
    /// Parts that the server was asked about.
    asked: usize,
    work: TableWork,
}

/// Returns which rows of a table are meant.
fn row_set(table: &TableInfo) -> RowSet {
    table.configuration.clone().map_or(RowSet::Own, RowSet::Configuration)
}

impl PlannedTable {
    /// The table that large objects look like.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn large_objects(census: &LargeObjectCensus, profile: Profile, format: TableFormat) -> Self {
        let mut columns = large_object_columns(profile);
        if format != TableFormat::Parquet {
            columns = Column::printed_all(columns);
        }
        Self {
            locked: LockedTable { oid: 0, name: large_objects_name(), filenode: 0, rows: RowSet::LargeObjects, order: vec![] },
            root: None,
            parent: None,
            bound: None,
            columns,
            format,
            kind: DatasetKind::LargeObjects,
            key_column: None,
            key: vec!["loid".into(), "at".into()],
            shape: Err("large objects are copied every time"),
            blocks: census.bytes / BLOCK,
            heap: false,
            rows_estimate: census.groups.iter().map(|g| g.oids.len()).sum::<usize>() as f64,
        }
    }

    fn dataset(&self, mut sum: Sum, versions: Option<RowVersions>) -> (Dataset, TableWork) {
        sum.parts.sort_by_key(|p| p.blocks.from);
        let key = self.key_column.as_ref().and_then(|name| self.columns.iter().find(|c| &c.name == name));
        let range: Option<KeyRange> = key.zip(sum.range).and_then(|(column, range)| key_range(column, range));
        let parts = sum.parts.len();
        let fingerprint = sum.parts.iter().map(|p| p.fingerprint).sum::<Fingerprint>();
        let dataset = Dataset {
            name: self.locked.name.clone(),
            kind: self.kind,
            root: self.root.clone(),
            parent: self.parent.clone(),
            bound: self.bound.clone(),
            condition: match &self.locked.rows {
                RowSet::Configuration(condition) => Some(condition.clone()),
                RowSet::Own | RowSet::LargeObjects => None,
            },
            shape: shape_digest(&self.columns),
            format: self.format,
            columns: self.columns.clone(),
            fingerprint,
            key_range: range,
            parts: sum.parts,
            bytes_read: sum.bytes_read,
            escaped: sum.escaped,
            key: self.key.clone(),
            change_token: reuse::token(self, versions.unwrap_or(sum.versions)),
            copied_by: None,
            source_match: (sum.asked > 0)
                .then_some(SourceMatch { rows: sum.matched, whole: sum.asked == parts && sum.matched == fingerprint.rows }),
        };
        (dataset, sum.work)
    }

    /// Returns how many blocks a range has.
    pub(crate) fn weight(&self, range: BlockRange) -> u64 {
        range.to.unwrap_or(self.blocks).saturating_sub(range.from)
    }

    /// Returns the dataset of an unchanged table: the rows of `before` under this table's name and place.
    pub(crate) fn unchanged(&self, before: &Dataset, copied_by: dozo_model::BackupId) -> Dataset {
        Dataset {
            name: self.locked.name.clone(),
            kind: self.kind,
            root: self.root.clone(),
            parent: self.parent.clone(),
            bound: self.bound.clone(),
            key: self.key.clone(),
            copied_by: Some(before.copied_by.clone().unwrap_or(copied_by)),
            // What a server confirmed once was confirmed in another snapshot.
            source_match: None,
            ..before.clone()
        }
    }
}
