//! How long the whole would take, by the rates of a sample.
//!
//! Each phase grows with something else: making definitions with their number, loading and comparing with bytes, indexes with the rows that
//! they hold. Foreign keys are missing in a sample of partitions, and dear in the whole: of each partition the server joins its rows with all
//! rows of the table that they refer to (`RI_Initial_Check`), so a tree of many months that refers to another visits that one as often. What a
//! visited row costs beside a row of an index was measured. The range is that of the other measures that a phase might have grown with, of
//! joins that fit into memory or do not, and of what no sample knows.

use std::collections::BTreeMap;

use dozo_model::{Dataset, Estimate, PostgresContent};

/// Of a definition, beside its rows: what it costs, in rows of an index.
const DEFINITION_ROWS: f64 = 3_000.0;
/// What a visited row of a foreign key costs beside a row of an index: at best, most likely, where joins spill.
const VISIT: (f64, f64, f64) = (0.13, 0.32, 0.48);
/// What no sample knows: caches, sorts that spill, checkpoints.
const UNSURE: (f64, f64) = (0.75, 1.35);

/// What there is to do for some tables.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Size {
    bytes: f64,
    rows: f64,
    /// Tables, and what belongs to them.
    definitions: f64,
    /// Rows of indexes.
    entries: f64,
    /// Rows that foreign keys visit.
    visits: f64,
}

impl Size {
    #[expect(clippy::cast_precision_loss, reason = "sizes of tables")]
    fn of(pg: &PostgresContent, datasets: &[&Dataset]) -> Self {
        let mut size = Self::default();
        let none = BTreeMap::new();
        let definitions = |table: &str| pg.definitions.as_ref().and_then(|d| d.get(table)).unwrap_or(&none);
        // Rows and leaves of each table: of a tree under the name of its root, and of every leaf.
        let mut tables: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for dataset in datasets {
            let rows = dataset.fingerprint.rows as f64;
            for name in [Some(&dataset.name), dataset.root.as_ref()].into_iter().flatten() {
                let sum = tables.entry(name.to_string()).or_default();
                (sum.0, sum.1) = (sum.0 + rows, sum.1 + 1.0);
            }
            let own = definitions(&dataset.name.to_string());
            let indexes = own.keys().filter(|k| k.starts_with("index ")).count() as f64;
            size.bytes += dataset.bytes_read as f64;
            size.rows += rows;
            size.definitions += 1.0 + indexes;
            size.entries += (rows + DEFINITION_ROWS) * indexes + DEFINITION_ROWS;
        }
        // A tree is there only as a whole: a sample of its leaves has none of its keys.
        let whole = |name: &str| {
            let leaves = pg.datasets.iter().filter(|d| d.root.as_ref().is_some_and(|r| r.to_string() == name)).count() as f64;
            leaves == 0.0 || tables.get(name).is_some_and(|(_, n)| *n >= leaves)
        };
        for (table, (rows, leaves)) in &tables {
            for referred in
                definitions(table).iter().filter(|(k, _)| k.starts_with("foreign key ")).filter_map(|(_, v)| v.split_once(' '))
            {
                if let Some((all, _)) = tables.get(referred.1).filter(|_| whole(table) && whole(referred.1)) {
                    size.definitions += leaves;
                    size.visits += rows + leaves * all;
                }
            }
        }
        size
    }

    /// Returns the work of indexes and keys.
    fn keys(&self, visit: f64) -> f64 {
        visit.mul_add(self.visits, self.entries)
    }
}

/// Estimates how long the whole would take. `seconds` are the phases of the sample.
pub(super) fn estimate(pg: &PostgresContent, sample: &[&Dataset], seconds: &BTreeMap<String, f64>) -> Option<Estimate> {
    let all: Vec<&Dataset> = pg.datasets.iter().collect();
    let (part, whole) = (Size::of(pg, sample), Size::of(pg, &all));
    if part.bytes <= 0.0 || whole.bytes <= 0.0 {
        return None;
    }
    let ratio = |of: &dyn Fn(&Size) -> f64| if of(&part) > 0.0 { of(&whole) / of(&part) } else { 1.0 };
    let (bytes, rows, definitions) = (ratio(&|s| s.bytes), ratio(&|s| s.rows), ratio(&|s| s.definitions));
    let keys = |visit: f64| ratio(&|s| s.keys(visit));
    let took = |phase: &str| seconds.get(phase).copied().unwrap_or(0.0);
    // Phase, what it most likely grows with, and what else it might.
    let phases = [
        (took("provision"), 1.0, vec![1.0]),
        (took("schema"), definitions, vec![1.0, definitions]),
        (took("fetch") + took("load"), bytes, vec![bytes, rows]),
        (took("index"), keys(VISIT.1), vec![keys(VISIT.0), keys(VISIT.2)]),
        (took("verify"), bytes, vec![bytes, rows]),
    ];
    let (mut middle, mut low, mut high) = (0.0, 0.0, 0.0);
    for (seconds, likely, others) in phases {
        middle += seconds * likely;
        low += seconds * others.iter().copied().fold(likely, f64::min);
        high += seconds * others.iter().copied().fold(likely, f64::max);
    }
    Some(Estimate { share: part.bytes / whole.bytes, seconds: middle, low: low * UNSURE.0, high: high * UNSURE.1 })
}
