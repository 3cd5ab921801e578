//! What a restore does: which tables under which names, which entries of the schema, in which order.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dozo_catalog::Repository;
use dozo_model::{
    Dataset, DatasetKind, Fingerprint, LargeObjects, Manifest, MaterializedView, PostgresContent, QualifiedName, SequenceValue,
    Sha256Digest, quote_ident,
};
use dozo_postgres::{Entry, PgTools, Renames, SchemaScript, Section, rewrite_entry};

use super::{RestoreOptions, RestoredTable};
use crate::intact::Digests;
use crate::select::Patterns;
use crate::{EngineError, Result};

/// A dataset and its name in the target.
#[derive(Debug, Clone)]
pub(crate) struct PlannedDataset {
    pub(crate) dataset: Dataset,
    pub(crate) target: QualifiedName,
}

impl PlannedDataset {
    pub(crate) fn report(&self, found: Option<Fingerprint>, verdict: &'static str) -> RestoredTable {
        RestoredTable {
            table: self.dataset.name.to_string(),
            restored_as: self.target.to_string(),
            rows: self.dataset.fingerprint.rows,
            expected: self.dataset.fingerprint,
            found,
            verdict,
            changes: None,
        }
    }
}

/// An entry and its statements under the new names.
#[derive(Debug, Clone)]
pub(crate) struct PlannedEntry {
    pub(crate) entry: Entry,
    pub(crate) sql: String,
    /// It must run after the one before it.
    pub(crate) in_order: bool,
}

impl PlannedEntry {
    /// Its name in the table of progress.
    pub(crate) fn item(&self) -> String {
        format!("entry {} {}", self.entry.id, self.entry.label())
    }
}

/// Everything that a restore does.
pub(crate) struct RestorePlan {
    /// Backup and selection: an interrupted restore continues only under the same label.
    pub(crate) label: String,
    /// The whole database.
    pub(crate) whole: bool,
    pub(crate) datasets: Vec<PlannedDataset>,
    entries: Vec<PlannedEntry>,
    /// Entries that may exist already.
    pub(crate) tolerated: BTreeSet<u32>,
    /// Tables with XML columns.
    pub(crate) with_xml: BTreeSet<u32>,
    pub(crate) sequences: Vec<SequenceValue>,
    /// Identity columns of side copies: table of the copy, and the value of the original's sequence.
    pub(crate) identities: Vec<(QualifiedName, SequenceValue)>,
    pub(crate) views: Vec<MaterializedView>,
    pub(crate) large_objects: Vec<LargeObjects>,
    pub(crate) roles: Vec<String>,
    pub(crate) warnings: Vec<String>,
    /// Tables that cannot be made, columns that cannot be filled: the restore is partial.
    pub(crate) unmade: usize,
    /// Size and digest of each object.
    pub(crate) objects: Digests,
    /// Roots of trees that were chosen as a whole, and their names in the target.
    tops: HashMap<QualifiedName, QualifiedName>,
    renamed: bool,
    /// Entries that attach a partition that is restored by itself to its tree, and the tree.
    attach: Vec<(QualifiedName, PlannedEntry)>,
}

impl RestorePlan {
    pub(crate) async fn new(
        repository: &Repository,
        manifest: &Manifest,
        pg: &PostgresContent,
        tools: &PgTools,
        options: &RestoreOptions,
    ) -> Result<Self> {
        let objects = Digests::of(manifest);
        let key = &pg.files.schema_dump;
        let dump = repository.store().get(key).await?;
        objects.check(key, dump.len() as u64, Sha256Digest::of(&dump))?;
        let mut flags = Vec::new();
        for (on, flag) in [
            (options.no_owner || options.role.is_some(), "--no-owner"),
            (options.no_privileges, "--no-privileges"),
            (options.no_tablespaces, "--no-tablespaces"),
        ] {
            flags.extend(on.then(|| flag.to_owned()));
        }
        let script = tools.schema_script(&dump, &flags).await?;

        let chosen = choose(manifest, pg, options)?;
        let whole = chosen.is_none();
        let renames = renames(pg, chosen.as_deref(), options)?;
        let datasets: Vec<PlannedDataset> = pg
            .datasets
            .iter()
            .filter(|d| chosen.as_ref().is_none_or(|names| names.contains(&d.name)))
            .map(|d| PlannedDataset { dataset: d.clone(), target: renames.apply(&d.name) })
            .collect();
        let mut warnings = Vec::new();
        let into_tables = options.content == super::Content::Data || options.existing != super::Existing::Refuse;
        let (datasets, beside): (Vec<_>, Vec<_>) = datasets.into_iter().partition(|d| !into_tables || d.dataset.kind.is_table());
        if !beside.is_empty() {
            warnings.push("large objects and rows within extensions are restored with a whole database only".into());
        }
        let (wanted, tolerated) = match &chosen {
            None => (script.entries.iter().map(|e| e.id).collect(), support_ids(&script)),
            Some(names) if options.schemas.is_empty() => script.select(&pairs(names)),
            Some(names) => whole_schemas(&script, &options.schemas, names),
        };
        let mut wanted = wanted;
        if options.alone {
            // A dump of the partition alone attaches it, and its indexes, to what is not in it.
            wanted.retain(|id| !script.attaches_elsewhere(*id));
        }
        if chosen.is_some() {
            refuse_inheritance(&script, &wanted)?;
        }
        let mut entries = planned_entries(&script, manifest, &wanted, &tolerated, &renames, &mut warnings);
        let mut tolerated = tolerated;
        if !renames.tables.is_empty() {
            tolerated.extend(script.entries.iter().filter(|e| is_plain_sequence(e)).map(|e| e.id));
        }
        for schema in target_schemas(&renames) {
            tolerated.insert(MADE_HERE);
            entries.insert(0, create_schema(&schema));
        }
        // A table whose definition was left out cannot be loaded.
        let made = |d: &PlannedDataset| {
            let is = |e: &&Entry| {
                e.kind == "TABLE" && e.schema.as_deref() == Some(&d.dataset.name.schema) && e.name == d.dataset.name.name
            };
            script.entries.iter().find(is).is_none_or(|e| entries.iter().any(|p| p.entry.id == e.id))
        };
        let (datasets, unmade): (Vec<_>, Vec<_>) = datasets.into_iter().partition(made);
        let mut unmade = unmade.len();
        for dataset in &datasets {
            for column in dataset.dataset.columns.iter().filter(|c| c.text_only) {
                unmade += 1;
                warnings.push(format!(
                    "{}.{} ({}) stays empty: no server reads its text back",
                    dataset.dataset.name, column.name, column.type_name
                ));
            }
        }
        if !renames.schemas.is_empty() && entries.iter().any(|e| ["FUNCTION", "PROCEDURE"].contains(&e.entry.kind.as_str())) {
            warnings.push("bodies of functions still name the old schema".into());
        }
        let parents = parents(pg);
        let is_top = |n: &QualifiedName| pg.partitioned.iter().any(|p| &p.name == n && p.parent.is_none());
        let in_choice = |n: &QualifiedName| chosen.as_ref().is_none_or(|c| c.contains(n));
        let tops = parents.keys().filter(|n| is_top(n) && in_choice(n)).map(|n| ((*n).clone(), renames.apply(n))).collect();
        let mut attach = Vec::new();
        if renames.tables.is_empty() && chosen.is_some() {
            for dataset in &datasets {
                let name = &dataset.dataset.name;
                let Some(parent) = dataset.dataset.parent.as_ref().filter(|p| !in_choice(p)) else { continue };
                let is = |e: &&Entry| e.kind == "TABLE ATTACH" && e.schema.as_ref() == Some(&name.schema) && e.name == name.name;
                if let Some(entry) = script.entries.iter().find(is) {
                    let last = Entry { section: Section::PostData, needs: vec![], ..entry.clone() };
                    attach.push((parent.clone(), PlannedEntry { sql: entry.sql.clone(), entry: last, in_order: true }));
                }
            }
        }
        let xml = |d: &&PlannedDataset| d.dataset.columns.iter().any(|c| c.loaded() && c.wire.holds_xml());
        let xml_tables: BTreeSet<_> =
            datasets.iter().filter(xml).map(|d| (&d.dataset.name.schema, &d.dataset.name.name)).collect();
        let of_xml = |e: &&PlannedEntry| {
            e.entry.kind == "TABLE" && e.entry.schema.as_ref().is_some_and(|s| xml_tables.contains(&(s, &e.entry.name)))
        };
        let rows = options.content != super::Content::Schema;
        let with_xml = entries.iter().filter(|e| rows && of_xml(e)).map(|e| e.entry.id).collect();
        let mut sequences = sequences(pg, chosen.as_deref(), options, &renames);
        if !whole {
            // Those of extensions come with the whole database only.
            let dumped = |s: &SequenceValue| {
                let is = |e: &Entry| {
                    e.kind == "SEQUENCE"
                        && renames.apply(&QualifiedName::new(e.schema.clone().unwrap_or_default(), &e.name)) == s.name
                };
                script.entries.iter().any(is)
            };
            sequences.retain(dumped);
        }
        let owned = pg.sequences.iter().filter(|_| !renames.tables.is_empty());
        let identities = owned.filter_map(|s| Some((renames.tables.get(s.owned_by.as_ref()?)?.clone(), s.clone()))).collect();
        let views = pg.materialized_views.iter().filter(|v| v.populated && (whole || options.schemas.contains(&v.name.schema)));
        Ok(Self {
            label: format!("{}@{} {}", manifest.source, manifest.id, selection_label(options)),
            whole,
            datasets,
            entries,
            tolerated,
            with_xml,
            sequences,
            identities,
            views: views.map(|v| MaterializedView { name: renames.apply(&v.name), ..v.clone() }).collect(),
            large_objects: if whole { pg.large_objects.clone() } else { Vec::new() },
            roles: needed_roles(pg, options),
            warnings,
            unmade,
            objects,
            tops,
            renamed: !renames.tables.is_empty() || !renames.schemas.is_empty(),
            attach,
        })
    }

    /// Returns the name in the target of the root of a dataset's tree, if the whole tree was chosen.
    pub(crate) fn top_of(&self, dataset: &Dataset) -> Option<QualifiedName> {
        self.tops.get(dataset.root.as_ref()?).cloned()
    }

    /// Tells whether tables get other names.
    pub(crate) fn renamed(&self) -> bool {
        self.renamed
    }

    /// Lets a partition that is restored by itself join its tree, where the target has the tree: last of all, so that nobody
    /// sees half of it.
    pub(crate) async fn attaching(mut self, target: &dozo_postgres::RestoreTarget) -> Result<Self> {
        for (parent, entry) in std::mem::take(&mut self.attach) {
            if target.is_partitioned(&parent).await? {
                // The tree's own indexes find theirs; attaching finds equal ones on the partition.
                self.entries.push(entry);
            }
        }
        Ok(self)
    }

    /// Takes entries out that the target cannot hold, and everything that needs them.
    pub(crate) fn leave_out(&mut self, mut gone: BTreeSet<u32>) {
        if gone.is_empty() {
            return;
        }
        loop {
            let more: Vec<u32> = self
                .entries
                .iter()
                .filter(|e| !gone.contains(&e.entry.id) && e.entry.needs.iter().any(|id| gone.contains(id)))
                .map(|e| e.entry.id)
                .collect();
            if more.is_empty() {
                break;
            }
            gone.extend(more);
        }
        let (out, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.entries).into_iter().partition(|e| gone.contains(&e.entry.id));
        self.entries = kept;
        let named = |kind: &str, name: &QualifiedName| {
            let is = |e: &PlannedEntry| {
                e.entry.kind == kind && e.entry.schema.as_ref() == Some(&name.schema) && e.entry.name == name.name
            };
            out.iter().any(is)
        };
        self.datasets.retain(|d| !named("TABLE", &d.dataset.name));
        self.sequences.retain(|s| !named("SEQUENCE", &s.name));
        self.views.retain(|v| !named("MATERIALIZED VIEW", &v.name));
        self.unmade += out.len();
    }

    /// Rows and sequences within an extension that was left out have no place.
    pub(crate) async fn keep_there(&mut self, target: &dozo_postgres::RestoreTarget) -> Result<()> {
        if self.unmade > 0 {
            let there = target.tables(&self.created_tables()).await?;
            let mut there = there.iter().map(Option::is_some);
            self.datasets.retain(|d| there.next() == Some(true) || d.dataset.kind != DatasetKind::Configuration);
            let names: Vec<QualifiedName> = self.sequences.iter().map(|s| s.name.clone()).collect();
            let mut there = target.relations_there(&names).await?.into_iter();
            self.sequences.retain(|_| there.next() == Some(true));
        }
        Ok(())
    }

    /// Returns the tables that this restore creates.
    pub(crate) fn created_tables(&self) -> Vec<QualifiedName> {
        self.datasets.iter().map(|d| d.target.clone()).collect()
    }

    /// Returns the entries of a section, in the dump's order.
    pub(crate) fn entries(&self, section: Section) -> impl Iterator<Item = &PlannedEntry> {
        self.entries.iter().filter(move |e| e.entry.section == section)
    }

    /// The group of entries that need every row to be there.
    pub(crate) const FOREIGN_KEYS: usize = 2;

    /// The group of event triggers: they act on whatever follows.
    pub(crate) const EVENT_TRIGGERS: usize = 4;

    /// Returns the entries after the rows in groups; within a group they may run in parallel.
    pub(crate) fn post_data(&self) -> [Vec<PlannedEntry>; 5] {
        let mut groups: [Vec<PlannedEntry>; 5] = Default::default();
        // A view may need a key (GROUP BY a primary key), and an index may be one of such a view.
        let late: BTreeSet<u32> = self
            .entries(Section::PostData)
            .filter(|e| !["INDEX", "CONSTRAINT", "INDEX ATTACH", "FK CONSTRAINT"].contains(&e.entry.kind.as_str()))
            .map(|e| e.entry.id)
            .collect();
        for entry in self.entries(Section::PostData) {
            let group = match entry.entry.kind.as_str() {
                _ if entry.entry.is_about_event_triggers() => Self::EVENT_TRIGGERS,
                _ if entry.entry.needs.iter().any(|id| late.contains(id)) => 3,
                "INDEX" | "CONSTRAINT" => 0,
                "INDEX ATTACH" => 1,
                "FK CONSTRAINT" => 2,
                _ => 3,
            };
            // Attaching indexes, triggers, rules and comments need each other in ways that the dump's order knows.
            groups[group].push(PlannedEntry { in_order: group == 1 || group >= 3, ..entry.clone() });
        }
        groups
    }
}

/// Id of an entry that is not from the dump.
const MADE_HERE: u32 = 0;

fn create_schema(name: &str) -> PlannedEntry {
    let entry = Entry {
        id: MADE_HERE,
        needs: vec![],
        name: name.to_owned(),
        kind: "SCHEMA".into(),
        schema: None,
        section: Section::PreData,
        sql: format!("CREATE SCHEMA {};", quote_ident(name)),
    };
    PlannedEntry { sql: entry.sql.clone(), entry, in_order: false }
}

/// Schemas that new names need.
fn target_schemas(renames: &Renames) -> BTreeSet<String> {
    let of_tables = renames.tables.values().map(|n| n.schema.clone());
    of_tables.chain(renames.schemas.values().cloned()).collect()
}

/// A child of inheritance has its parent's columns, and its rows show in the parent: it cannot be restored by itself.
fn refuse_inheritance(script: &SchemaScript, wanted: &BTreeSet<u32>) -> Result<()> {
    let child = |e: &&Entry| e.kind == "TABLE" && wanted.contains(&e.id) && e.sql.contains("\nINHERITS (");
    match script.entries.iter().find(child) {
        Some(e) => Err(EngineError::Options(format!("{} inherits from another table: restore the whole database", e.label()))),
        None => Ok(()),
    }
}

fn pairs(names: &[QualifiedName]) -> BTreeSet<(String, String)> {
    names.iter().map(|n| (n.schema.clone(), n.name.clone())).collect()
}

fn selection_label(options: &RestoreOptions) -> String {
    let mut words = Vec::new();
    words.extend(options.schemas.iter().map(|s| format!("schema {s}")));
    words.extend(options.tables.iter().map(|t| format!("table {t}")));
    words.extend(options.rename.iter().map(|r| format!("as {r}")));
    words.extend(options.filter.iter().map(|f| format!("where {f}")));
    words.extend((options.content == super::Content::Schema).then(|| "definitions".to_owned()));
    if words.is_empty() { "whole".into() } else { words.join(", ") }
}

/// Returns the tables (with the roots of trees) that were asked for; `None` = all.
fn choose(manifest: &Manifest, pg: &PostgresContent, options: &RestoreOptions) -> Result<Option<Vec<QualifiedName>>> {
    if options.schemas.is_empty() && options.tables.is_empty() {
        return match &options.rename {
            Some(_) => Err(EngineError::Options("--as needs --table or --schema".into())),
            None => Ok(None),
        };
    }
    if !options.schemas.is_empty() && !options.tables.is_empty() {
        return Err(EngineError::Options("--schema and --table cannot be combined".into()));
    }
    let place = format!("backup {}@{}", manifest.source, manifest.id);
    let parents = parents(pg);
    let all: Vec<&QualifiedName> = parents.keys().copied().collect();
    if !options.schemas.is_empty() {
        if let Some(missing) = options.schemas.iter().find(|s| !all.iter().any(|n| &n.schema == *s)) {
            return Err(EngineError::NoMatch { pattern: missing.clone(), place });
        }
        return Ok(Some(all.into_iter().filter(|n| options.schemas.contains(&n.schema)).cloned().collect()));
    }
    let patterns = Patterns::new(&options.tables)?;
    patterns.all_match(all.iter().map(|n| (*n, None)), &place)?;
    // A table comes with everything below it.
    let chosen = |name: &QualifiedName| {
        std::iter::successors(Some(name), |n| parents.get(n).copied().flatten()).any(|n| patterns.matching(n, None).is_some())
    };
    Ok(Some(all.into_iter().filter(|n| chosen(n)).cloned().collect()))
}

/// Every table of a backup, and the partitioned table right above it.
fn parents(pg: &PostgresContent) -> BTreeMap<&QualifiedName, Option<&QualifiedName>> {
    // What belongs to the database as a whole cannot be chosen.
    let tables = pg.datasets.iter().filter(|d| d.kind.is_table());
    let datasets = tables.map(|d| (&d.name, d.parent.as_ref()));
    datasets.chain(pg.partitioned.iter().map(|p| (&p.name, p.parent.as_ref()))).collect()
}

fn renames(pg: &PostgresContent, chosen: Option<&[QualifiedName]>, options: &RestoreOptions) -> Result<Renames> {
    let mut renames = Renames::default();
    let Some(chosen) = chosen else { return Ok(renames) };
    if options.rename.is_none() && !options.beside {
        return Ok(renames);
    }
    if let ([schema], Some(new)) = (options.schemas.as_slice(), &options.rename) {
        renames.schemas.insert(schema.clone(), new.clone());
        return Ok(renames);
    }
    let parents = parents(pg);
    let top = |n: &&QualifiedName| parents.get(n).copied().flatten().is_none_or(|p| !chosen.contains(p));
    let roots: Vec<&QualifiedName> = chosen.iter().filter(top).collect();
    let [root] = roots.as_slice() else {
        return Err(EngineError::Options(format!("--as names one table, but {} were chosen", roots.len())));
    };
    let new_root = match &options.rename {
        None => super::into::beside_name(root, "restored")?,
        Some(new) => match new.split_once('.') {
            Some((schema, name)) => QualifiedName::new(schema, name),
            None => QualifiedName::new(&root.schema, new),
        },
    };
    for name in chosen {
        let target = if name == *root {
            new_root.clone()
        } else if new_root.schema != name.schema {
            QualifiedName::new(&new_root.schema, &name.name)
        } else {
            let tail = name.name.strip_prefix(&root.name).map_or_else(|| format!("_{}", name.name), str::to_owned);
            QualifiedName::new(&new_root.schema, format!("{}{tail}", new_root.name))
        };
        if target.name.len() > 63 {
            return Err(EngineError::Options(format!("the new name `{}` is longer than 63 bytes", target.name)));
        }
        renames.tables.insert(name.clone(), target);
    }
    Ok(renames)
}

/// In an empty database only what every database has may exist already.
fn support_ids(script: &SchemaScript) -> BTreeSet<u32> {
    let known = |e: &&Entry| e.kind == "SCHEMA" && ["public", "dozo"].contains(&e.name.as_str()) || e.kind == "EXTENSION";
    script.entries.iter().filter(known).map(|e| e.id).collect()
}

fn whole_schemas(script: &SchemaScript, schemas: &[String], names: &[QualifiedName]) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let (mut wanted, mut support) = script.select(&pairs(names));
    let inside = |e: &&Entry| e.schema.as_ref().is_some_and(|s| schemas.contains(s));
    wanted.extend(script.entries.iter().filter(inside).map(|e| e.id));
    support.retain(|id| !wanted.contains(id));
    (wanted, support)
}

fn planned_entries(
    script: &SchemaScript,
    manifest: &Manifest,
    wanted: &BTreeSet<u32>,
    support: &BTreeSet<u32>,
    renames: &Renames,
    warnings: &mut Vec<String>,
) -> Vec<PlannedEntry> {
    let gone = manifest.left_out.iter().filter(|l| !l.reason.starts_with("foreign table"));
    let unrestorable = script.needing(&gone.map(|l| l.name.clone()).collect());
    // A side copy's partition gets its part of an index from its parent.
    let attached: BTreeSet<(&Option<String>, &str)> = script
        .entries
        .iter()
        .filter(|e| e.kind == "INDEX ATTACH" && wanted.contains(&e.id) && !renames.tables.is_empty())
        .map(|e| (&e.schema, e.name.as_str()))
        .collect();
    let mut planned = Vec::new();
    for entry in script.entries.iter().filter(|e| wanted.contains(&e.id) || support.contains(&e.id)) {
        if unrestorable.contains(&entry.id) {
            warnings.push(format!("{} was left out: it needs a table that is not in the backup", entry.label()));
            continue;
        }
        // The entry of a key is named after its table and itself.
        let own_name = if entry.kind == "CONSTRAINT" { entry.name.rsplit(' ').next().unwrap_or_default() } else { &entry.name };
        if ["INDEX", "CONSTRAINT"].contains(&entry.kind.as_str()) && attached.contains(&(&entry.schema, own_name)) {
            continue;
        }
        // What a side copy needs and does not rename: types, sequences of defaults; they may be there.
        let as_it_is =
            !renames.tables.is_empty() && (support.contains(&entry.id) && entry.kind != "SCHEMA" || is_plain_sequence(entry));
        let sql = if as_it_is { Some(entry.sql.clone()) } else { rewrite_entry(entry, renames) };
        if let Some(sql) = sql {
            planned.push(PlannedEntry { entry: entry.clone(), sql, in_order: false });
        }
    }
    planned
}

fn sequences(
    pg: &PostgresContent,
    chosen: Option<&[QualifiedName]>,
    options: &RestoreOptions,
    renames: &Renames,
) -> Vec<SequenceValue> {
    let wanted = |s: &&SequenceValue| match chosen {
        None => true,
        // A side copy leaves the sequences of the live table alone.
        Some(_) if !renames.tables.is_empty() => false,
        Some(names) => options.schemas.contains(&s.name.schema) || s.owned_by.as_ref().is_some_and(|o| names.contains(o)),
    };
    pg.sequences.iter().filter(wanted).map(|s| SequenceValue { name: renames.apply(&s.name), ..s.clone() }).collect()
}

fn needed_roles(pg: &PostgresContent, options: &RestoreOptions) -> Vec<String> {
    let side_copy = (options.rename.is_some() || options.beside) && !options.tables.is_empty();
    let owners_only = options.no_owner || options.role.is_some();
    if owners_only && (options.no_privileges || side_copy) { Vec::new() } else { pg.roles.clone() }
}

/// The sequence of a serial column, which the default of a side copy goes on using.
fn is_plain_sequence(entry: &Entry) -> bool {
    entry.kind == "SEQUENCE" && !entry.sql.contains("ADD GENERATED")
}
