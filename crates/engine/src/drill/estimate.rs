//! How long the whole would take, by the rates of a sample.
//!
//! Each phase grows with something else: making definitions with their number, loading and comparing with bytes, indexes and keys with the
//! rows that they hold. Keys between tables are missing in a sample; what they cost is taken from its indexes. The range is that of the
//! other measures that a phase might have grown with, and of what sorting larger tables costs more.

use std::collections::BTreeMap;

use dozo_model::{Dataset, Estimate, PostgresContent};

/// Of a definition, beside its rows: what it costs, in rows.
const DEFINITION_ROWS: f64 = 3_000.0;
/// What a foreign key costs beside an index over the same rows.
const KEY_WEIGHT: f64 = 0.7;
/// What no sample knows: caches, sorts that spill, checkpoints.
const UNSURE: (f64, f64) = (0.75, 1.35);

/// What there is to do for some tables.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Size {
    bytes: f64,
    rows: f64,
    /// Tables, and what belongs to them.
    definitions: f64,
    /// Rows of indexes and keys.
    entries: f64,
}

impl Size {
    #[expect(clippy::cast_precision_loss, reason = "sizes of tables")]
    fn of(pg: &PostgresContent, datasets: &[&Dataset], with_keys: bool) -> Self {
        let mut size = Self::default();
        for dataset in datasets {
            let (rows, none) = (dataset.fingerprint.rows as f64, BTreeMap::new());
            let own = pg.definitions.as_ref().and_then(|d| d.get(&dataset.name.to_string())).unwrap_or(&none);
            let indexes = own.keys().filter(|k| k.starts_with("index ")).count() as f64;
            let keys = own.keys().filter(|k| with_keys && k.starts_with("foreign key ")).count() as f64;
            size.bytes += dataset.bytes_read as f64;
            size.rows += rows;
            size.definitions += 1.0 + indexes + keys;
            size.entries += (rows + DEFINITION_ROWS) * KEY_WEIGHT.mul_add(keys, indexes) + DEFINITION_ROWS;
        }
        size
    }
}

/// Estimates how long the whole would take. `seconds` are the phases of the sample.
pub(super) fn estimate(pg: &PostgresContent, sample: &[&Dataset], seconds: &BTreeMap<String, f64>) -> Option<Estimate> {
    let all: Vec<&Dataset> = pg.datasets.iter().collect();
    let (part, whole) = (Size::of(pg, sample, false), Size::of(pg, &all, true));
    if part.bytes <= 0.0 || whole.bytes <= 0.0 {
        return None;
    }
    let ratio = |of: fn(&Size) -> f64| if of(&part) > 0.0 { of(&whole) / of(&part) } else { 1.0 };
    let (bytes, rows, definitions, entries) =
        (ratio(|s| s.bytes), ratio(|s| s.rows), ratio(|s| s.definitions), ratio(|s| s.entries));
    let took = |phase: &str| seconds.get(phase).copied().unwrap_or(0.0);
    // Phase, what it most likely grows with, and what else it might.
    let phases = [
        (took("provision"), 1.0, vec![1.0]),
        (took("schema"), definitions, vec![1.0, definitions]),
        (took("fetch") + took("load"), bytes, vec![bytes, rows]),
        (took("index"), entries, vec![bytes, rows, entries]),
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
