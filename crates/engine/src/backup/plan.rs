//! What is backed up: which tables, in which units, and the datasets that come out of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dozo_model::{
    Column, Dataset, DatasetKind, Fingerprint, KeyRange, LeftOut, ObjectRef, Part, PartitionedTable, QualifiedName, quote_ident,
};
use dozo_postgres::{
    ChunkLimits, Coordinator, LockedTable, Planned, SequenceInfo, TableInfo, TypeCatalog, Unit, columns, key_range,
    partition_keys, plan_units, shape_digest,
};

use super::unit::UnitReport;
use super::{TableReport, table_report};
use crate::Result;
use crate::budget::Budget;
use crate::context::SourceSettings;
use crate::select::Patterns;

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
        selection.include.all_match(tables.iter().map(|t| (&t.name, t.root.as_ref().map(|(_, n)| n))), &place)?;
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
        if (table.name.schema.as_str(), table.name.name.as_str()) == ("dozo", "restore") {
            return Choice::Excluded("progress of an interrupted restore".into());
        }
        if table.extension.is_some() {
            return Choice::OfExtension;
        }
        if !self.include.is_empty() && self.include.matching(&table.name, root).is_none() {
            return Choice::Excluded("not included".into());
        }
        if let Some(pattern) = self.exclude.matching(&table.name, root) {
            return Choice::Excluded(format!("excluded by {pattern}"));
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
    pub(crate) key_column: Option<String>,
    blocks: u64,
    heap: bool,
    rows_estimate: f64,
}

impl Planned for PlannedTable {
    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn divisible(&self) -> bool {
        self.heap
    }

    fn family(&self) -> Option<&QualifiedName> {
        self.root.as_ref()
    }

    fn same_columns(&self, other: &Self) -> bool {
        self.columns == other.columns
    }
}

/// Everything that the workers do.
pub(crate) struct Plan {
    pub(crate) budget: Budget,
    pub(crate) tables: Arc<Vec<PlannedTable>>,
    pub(crate) units: Vec<Unit>,
    pub(crate) partitioned: Vec<PartitionedTable>,
}

impl Plan {
    /// Reads columns and sizes under the snapshot and cuts the tables into units.
    pub(crate) async fn new(coordinator: &Coordinator, budget: Budget) -> Result<Self> {
        let session = coordinator.session();
        let types = TypeCatalog::load(session, coordinator.facts.money_scale).await?;
        let locked: Vec<&TableInfo> = coordinator.tables.iter().filter(|t| coordinator.locked.contains(&t.oid)).collect();
        let with_rows: Vec<&TableInfo> = locked.iter().copied().filter(|t| t.has_rows()).collect();
        let mut all_columns = columns(session, &types, &with_rows).await?;
        let blocks = coordinator.blocks().await?;
        let keys = partition_keys(session).await?;
        let tables: Vec<PlannedTable> = with_rows
            .iter()
            .map(|t| PlannedTable {
                locked: LockedTable { oid: t.oid, name: t.name.clone(), filenode: t.filenode },
                root: t.root.as_ref().map(|(_, name)| name.clone()),
                parent: t.parent.clone(),
                bound: t.bound.clone(),
                columns: all_columns.remove(&t.oid).unwrap_or_default().columns,
                key_column: t.root.as_ref().and_then(|(oid, _)| keys.get(oid).cloned()),
                blocks: blocks.get(&t.oid).copied().unwrap_or(0),
                heap: t.access_method == "heap",
                rows_estimate: t.rows_estimate.max(0.0),
            })
            .collect();
        const BLOCK: u64 = 8192;
        let limits = ChunkLimits { blocks: budget.unit_bytes / BLOCK, small_blocks: (4 << 20) / BLOCK };
        let units = plan_units(&tables, limits);
        let partitioned = locked.iter().filter(|t| t.kind == 'p');
        let partitioned = partitioned.map(|t| PartitionedTable { name: t.name.clone(), parent: t.parent.clone() }).collect();
        Ok(Self { budget, tables: Arc::new(tables), units, partitioned })
    }

    /// Returns estimated rows and heap bytes.
    pub(crate) fn estimate(&self) -> (u64, u64) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate, never negative")]
        let rows = self.tables.iter().map(|t| t.rows_estimate).sum::<f64>() as u64;
        (rows, self.tables.iter().map(|t| t.blocks * 8192).sum())
    }

    /// Puts the units' results together into datasets, their objects, and the report per table.
    pub(crate) fn datasets(&self, units: Vec<UnitReport>) -> (Vec<Dataset>, Vec<ObjectRef>, Vec<TableReport>) {
        struct Sum {
            parts: Vec<Part>,
            bytes_read: u64,
            written: u64,
            escaped: BTreeMap<String, u64>,
            seconds: BTreeMap<String, f64>,
            range: Option<(i64, i64)>,
        }
        let mut sums: Vec<Sum> = self
            .tables
            .iter()
            .map(|_| Sum {
                parts: vec![],
                bytes_read: 0,
                written: 0,
                escaped: BTreeMap::new(),
                seconds: BTreeMap::new(),
                range: None,
            })
            .collect();
        let mut objects = Vec::new();
        for unit in units {
            let rows: u64 = unit.pieces.iter().map(|p| p.part.fingerprint.rows).sum();
            for piece in unit.pieces {
                let sum = &mut sums[piece.dataset];
                let share = if rows == 0 {
                    0
                } else {
                    u128::from(unit.object.bytes) * u128::from(piece.part.fingerprint.rows) / u128::from(rows)
                };
                sum.written += u64::try_from(share).unwrap_or(0);
                sum.bytes_read += piece.bytes_read;
                for (column, count) in piece.escaped {
                    *sum.escaped.entry(column).or_default() += count;
                }
                for (stage, seconds) in piece.seconds {
                    *sum.seconds.entry(stage.to_owned()).or_default() += seconds;
                }
                if let Some((min, max)) = piece.key_range {
                    sum.range = Some(sum.range.map_or((min, max), |(a, b)| (a.min(min), b.max(max))));
                }
                sum.parts.push(piece.part);
            }
            objects.push(unit.object);
        }
        let mut reports = Vec::new();
        let datasets = self.tables.iter().zip(sums).map(|(table, mut sum)| {
            sum.parts.sort_by_key(|p| p.blocks.from);
            let key = table.key_column.as_ref().and_then(|name| table.columns.iter().find(|c| &c.name == name));
            let range: Option<KeyRange> = key.zip(sum.range).and_then(|(column, range)| key_range(column, range));
            let dataset = Dataset {
                name: table.locked.name.clone(),
                kind: if table.root.is_some() { DatasetKind::Partition } else { DatasetKind::Table },
                root: table.root.clone(),
                parent: table.parent.clone(),
                bound: table.bound.clone(),
                shape: shape_digest(&table.columns),
                columns: table.columns.clone(),
                fingerprint: sum.parts.iter().map(|p| p.fingerprint).sum::<Fingerprint>(),
                key_range: range,
                parts: sum.parts,
                bytes_read: sum.bytes_read,
                escaped: sum.escaped,
            };
            reports.push(table_report(&dataset, sum.written, sum.seconds));
            dataset
        });
        let datasets = datasets.collect();
        (datasets, objects, reports)
    }
}
