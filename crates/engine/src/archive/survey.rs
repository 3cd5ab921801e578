//! What there is before anything is decided: the trees of the jobs, the two ledgers, what refers to what.
//!
//! Reads only. Everything that a plan is made from stands in [`Survey`], so that [`super::plan`] is a function of it.

use std::collections::{BTreeMap, HashMap};

use dozo_catalog::{ArchivedUnit, Repository};
use dozo_model::{QualifiedName, Timestamp};
use dozo_postgres::{
    ConnInfo, Grants, LedgerRow, LedgerState, Obstacles, Partition, Referring, ServerFacts, Session, Tree, ledger_rows,
    obstacles, referring_rows, rows_where, tree,
};
use jiff::tz::TimeZone;

use super::export::continues;
use super::job::{ArchiveJob, Then};
use super::label::{self, Edge};
use crate::context::SourceSettings;
use crate::{EngineError, Result};

/// A source and all of its jobs.
pub(crate) struct Survey<'a> {
    pub(crate) source: &'a SourceSettings,
    pub(crate) info: ConnInfo,
    pub(crate) session: Session,
    pub(crate) facts: ServerFacts,
    pub(crate) jobs: Vec<JobLook<'a>>,
    /// Partitions of all jobs.
    pub(crate) candidates: Vec<Candidate>,
    /// The ledger of the database.
    pub(crate) rows: Vec<LedgerRow>,
    /// The ledger of the repository.
    pub(crate) units: Vec<ArchivedUnit>,
    /// Sets of servers that continue each other.
    pub(crate) joined: Vec<Vec<String>>,
    /// The moment that ages are counted from.
    pub(crate) now: Timestamp,
}

/// A job and its tree.
pub(crate) struct JobLook<'a> {
    pub(crate) job: &'a ArchiveJob,
    pub(crate) tree: Option<Tree>,
    pub(crate) grants: Grants,
    /// Why nothing of it can be done.
    pub(crate) refusals: Vec<String>,
}

/// A partition that may leave.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// Its job.
    pub(crate) job: usize,
    pub(crate) partition: Partition,
    pub(crate) parent: QualifiedName,
    /// All of its tables, the partition first.
    pub(crate) tables: Vec<(u32, QualifiedName)>,
    /// OIDs of those that hold rows.
    pub(crate) leaves: Vec<u32>,
    /// Folder of the archive.
    pub(crate) label: Option<String>,
    /// Where it ends.
    pub(crate) end: Option<Timestamp>,
    /// Whether it is younger than the job wants.
    pub(crate) young: bool,
    /// Why it never gets old: it has no end.
    pub(crate) open: Option<String>,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// What stands in its way by itself.
    pub(crate) refusals: Vec<String>,
    /// Rows that refer to its rows.
    pub(crate) referring: Vec<Referring>,
    /// It took the place of a partition that left, and no late row has come.
    pub(crate) idle_stub: bool,
}

impl<'a> Survey<'a> {
    /// Looks at a source.
    ///
    /// # Errors
    /// What the server or the repository says.
    pub(crate) async fn look(
        repository: Option<&Repository>,
        source: &'a SourceSettings,
        jobs: &[&'a ArchiveJob],
        fixed: Option<Timestamp>,
    ) -> Result<Self> {
        let Some(settings) = source.postgres() else {
            return Err(EngineError::Options(format!(
                "source `{}` is no Postgres database: nothing of it is archived",
                source.name
            )));
        };
        if settings.databases.is_some() {
            return Err(EngineError::Options(format!(
                "source `{}` is a whole server: give the database a source of its own",
                source.name
            )));
        }
        let info = settings.connection()?;
        let session = Session::connect_as(&info, "dozo archive").await?;
        session.refuse_pooler().await?;
        let facts = session.facts().await?;
        let now = fixed.unwrap_or(facts.now);
        let (units, joined) = match repository {
            Some(repository) => (repository.archive_units(&source.name).await?, repository.joined(&source.name).await?),
            None => (Vec::new(), Vec::new()),
        };
        let mut survey =
            Self { source, session, info, jobs: Vec::new(), candidates: Vec::new(), rows: Vec::new(), units, joined, facts, now };
        survey.rows = ledger_rows(&survey.session).await?;
        for job in jobs {
            survey.add(job).await?;
        }
        survey.refer().await?;
        Ok(survey)
    }

    async fn add(&mut self, job: &'a ArchiveJob) -> Result<()> {
        let mut look = JobLook { job, tree: None, grants: Grants::default(), refusals: Vec::new() };
        if self.facts.standby {
            look.refusals.push(format!("{} is a replica: archive on the primary", self.info.target()));
        }
        if let Some(other) = self.other_server(&job.table) {
            look.refusals.push(format!(
                "units of it were archived from the server {other}, and this is {}: `dozo source rebind` says that one continues the other",
                self.facts.system_identifier.as_deref().unwrap_or("another one")
            ));
        }
        look.tree = tree(&self.session, &job.table).await?;
        let Some(tree) = look.tree.clone() else {
            look.refusals.push(format!("{} is not a partitioned table of this database", job.table));
            self.jobs.push(look);
            return Ok(());
        };
        let ranges: Vec<_> = tree.ranges_of(&job.column).collect();
        if !tree.tables.iter().any(|t| t.key.as_ref().is_some_and(|(column, _)| column == &job.column)) {
            look.refusals.push(format!("{} is not partitioned by RANGE ({})", job.table, job.column));
        }
        let all: Vec<u32> = tree.tables.iter().map(|t| t.oid).collect();
        let below: HashMap<u32, Vec<u32>> =
            ranges.iter().map(|(p, _)| (p.oid, tree.below(p.oid).iter().map(|t| t.oid).collect())).collect();
        let own: Vec<u32> = below.values().flatten().copied().collect();
        let (found, grants) = obstacles(&self.session, &all, &own).await?;
        if job.then != Then::Keep {
            look.refusals.extend(grants.missing.iter().map(|m| format!("privilege is missing: {m}")));
            if !tree.root().owned {
                look.refusals.push(format!("privilege is missing: only the owner of {} can detach partitions", job.table));
            }
            if !grants.publications.is_empty() {
                look.refusals.push(format!(
                    "it is published ({}): subscribers would go on with the partitions, take it out of the publication first",
                    grants.publications.join(", ")
                ));
            }
        }
        look.grants = grants;
        let zone =
            self.zone(job, ranges.iter().any(|(_, k)| *k == Some(dozo_postgres::KeyKind::Timestamptz)), &mut look.refusals);
        let label_column = job.label_column();
        let other = |u: &&ArchivedUnit| {
            u.plan.table == job.table
                && u.is_published()
                && u.plan.root == job.root()
                && !u.plan.label.starts_with(&format!("{label_column}="))
        };
        if let Some(unit) = self.units.iter().find(other) {
            let theirs = unit.plan.label.split('=').next().unwrap_or_default();
            look.refusals.push(format!(
                "its archive has folders by {theirs}, and none by {label_column}: set column and granularity as they were"
            ));
        }
        let index = self.jobs.len();
        let mut units: Vec<u32> = Vec::new();
        for (partition, kind) in &ranges {
            // Of ranges within ranges the widest that fits a folder is the unit.
            if tree.above(partition.oid).iter().any(|above| units.contains(&above.oid)) {
                continue;
            }
            let (partition, kind) = (*partition, *kind);
            let folder =
                kind.map(|kind| label::range(&partition.bound, kind).and_then(|r| label::label(r, job.granularity, &zone)));
            let divided = ranges.iter().any(|(p, _)| p.parent == partition.oid);
            if divided && !matches!(folder, Some(Ok(_))) {
                continue;
            }
            units.push(partition.oid);
            // What a run has begun to detach is ended by the next one.
            if self.rows.iter().any(|r| r.relid == partition.oid && r.state == LedgerState::Detaching) {
                continue;
            }
            let candidate = self.candidate(index, job, &tree, partition, kind, &zone, &found, &below[&partition.oid]);
            self.candidates.push(candidate);
        }
        self.jobs.push(look);
        Ok(())
    }

    /// Returns the calendar of a job.
    fn zone(&self, job: &ArchiveJob, needed: bool, refusals: &mut Vec<String>) -> TimeZone {
        match job.time_zone.as_deref().map(TimeZone::get) {
            Some(Ok(zone)) => zone,
            Some(Err(e)) => {
                refusals.push(format!("time-zone: {e}"));
                TimeZone::UTC
            }
            None => {
                if needed {
                    refusals
                        .push(format!("{} is a timestamptz: set time-zone, the calendar of the archive's folders", job.column));
                }
                TimeZone::UTC
            }
        }
    }

    fn candidate(
        &self,
        index: usize,
        job: &ArchiveJob,
        tree: &Tree,
        partition: &Partition,
        kind: Option<dozo_postgres::KeyKind>,
        zone: &TimeZone,
        found: &Obstacles,
        below: &[u32],
    ) -> Candidate {
        let tables: Vec<&Partition> = tree.below(partition.oid);
        let leaves: Vec<&&Partition> = tables.iter().filter(|t| t.kind != 'p').collect();
        let mut refusals = Vec::new();
        let range = match kind {
            Some(kind) => label::range(&partition.bound, kind),
            None => Err(format!("{} is no date, timestamp or timestamptz", job.column)),
        };
        let (mut folder, mut end, mut young, mut open) = (None, None, false, None);
        match &range {
            Err(why) if partition.is_default() || partition.bound.ends_with("TO (MAXVALUE)") => open = Some(why.clone()),
            Err(why) => refusals.push(why.clone()),
            Ok(range) => {
                match label::label(*range, job.granularity, zone) {
                    Ok(name) => folder = Some(format!("{}={name}", job.label_column())),
                    Err(why) => refusals.push(why),
                }
                end = range.1.instant(zone);
                let limit = job.older_than.limit(self.now, zone);
                young = !matches!((end, limit), (Some(end), Some(limit)) if end <= limit);
            }
        }
        if partition.pending {
            refusals.push("a concurrent detach of it is pending: ALTER TABLE … DETACH PARTITION … FINALIZE ends it".into());
        }
        if let Some(foreign) = leaves.iter().find(|t| t.kind == 'f') {
            refusals.push(format!("{} is a foreign table", foreign.name));
        }
        if let Some(hidden) = leaves.iter().find(|t| !t.readable) {
            refusals.push(format!("privilege is missing: not every row of {} may be read", hidden.name));
        }
        if job.then != Then::Keep {
            if let Some(foreign) = tables.iter().find(|t| !t.owned) {
                refusals.push(format!("privilege is missing: {} belongs to another role", foreign.name));
            }
            refusals.extend(below.iter().filter_map(|oid| found.0.get(oid)).flatten().cloned());
            let default = tree.tables.iter().any(|t| t.parent == partition.parent && t.is_default());
            if job.protocol == super::job::Protocol::Concurrent && default {
                refusals.push(
                    "its table has a DEFAULT partition, beside which nothing is detached concurrently: protocol = \"plain\""
                        .into(),
                );
            }
        }
        if let Some(unit) = self.again(&partition.name, &job.table) {
            refusals.push(format!(
                "it was archived before as unit {unit}, which this database knows nothing of (a copy of an earlier point in time?): \
                 dozo archive resolve {unit} --keep live|archived"
            ));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate, never negative")]
        let rows = leaves.iter().map(|t| t.rows_estimate.max(0.0)).sum::<f64>() as u64;
        Candidate {
            job: index,
            parent: tree.get(partition.parent).map_or_else(|| job.table.clone(), |t| t.name.clone()),
            tables: tables.iter().map(|t| (t.oid, t.name.clone())).collect(),
            leaves: leaves.iter().map(|t| t.oid).collect(),
            label: folder,
            end,
            young: young || open.is_some(),
            open,
            rows,
            bytes: tables.iter().map(|t| t.bytes).sum(),
            refusals,
            referring: Vec::new(),
            idle_stub: false,
            partition: partition.clone(),
        }
    }

    /// Counts the rows that refer to what may leave; looks into stubs, of which no estimate says whether they are empty.
    async fn refer(&mut self) -> Result<()> {
        for candidate in self.candidates.iter_mut().filter(|c| !c.young && c.refusals.is_empty()) {
            if self.rows.iter().any(|r| r.details.stub.as_ref() == Some(&candidate.partition.name)) {
                candidate.idle_stub = rows_where(&self.session, &candidate.partition.name, "true").await? == 0;
            }
        }
        let mut by_job: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for candidate in self.candidates.iter().filter(|c| !c.young && c.refusals.is_empty()) {
            if self.jobs[candidate.job].job.then != Then::Keep && self.jobs[candidate.job].refusals.is_empty() {
                by_job.entry(candidate.job).or_default().extend(&candidate.leaves);
            }
        }
        for (job, leaves) in by_job {
            let Some(tree) = &self.jobs[job].tree else { continue };
            // Of foreign keys to a leaf itself was told already.
            let tables: Vec<u32> = tree.tables.iter().filter(|t| t.kind == 'p').map(|t| t.oid).collect();
            let found = referring_rows(&self.session, &tables, &leaves).await?;
            for candidate in self.candidates.iter_mut().filter(|c| c.job == job) {
                let (within, from_others): (Vec<&Referring>, Vec<&Referring>) = found
                    .iter()
                    .filter(|r| candidate.leaves.contains(&r.partition))
                    .partition(|r| candidate.leaves.contains(&r.table));
                if let Some(own) = within.first() {
                    let text = format!(
                        "{} rows of {} refer to rows of the same partition: Postgres detaches no such one",
                        own.rows, own.name
                    );
                    candidate.refusals.push(text);
                }
                candidate.referring = from_others.into_iter().cloned().collect();
            }
        }
        Ok(())
    }

    /// Returns the server that units of a table came from, if this one does not continue it.
    fn other_server(&self, table: &QualifiedName) -> Option<String> {
        let own = self.facts.system_identifier.as_ref()?;
        let of_table = self.units.iter().filter(|u| &u.plan.table == table && !u.last.state.is_last());
        of_table.filter_map(|u| u.plan.system_identifier.clone()).find(|other| !continues(own, other, &self.joined))
    }

    /// Returns the unit that a live partition was archived as, if the database does not know of that.
    fn again(&self, partition: &QualifiedName, table: &QualifiedName) -> Option<String> {
        let unit = self.units.iter().rev().find(|u| {
            &u.plan.partition == partition
                && &u.plan.table == table
                && u.plan.root == "v1"
                && super::has_left(u)
                && !u.last.state.is_last()
        })?;
        let known = self.rows.iter().any(|r| r.unit == unit.plan.unit.as_str());
        (!known).then(|| unit.plan.unit.to_string())
    }

    /// Returns the ledger's row of a unit.
    pub(crate) fn row(&self, unit: &ArchivedUnit) -> Option<&LedgerRow> {
        self.rows.iter().find(|r| r.unit == unit.plan.unit.as_str())
    }

    /// Returns the end of the range of a unit, by the calendar of its job.
    pub(crate) fn end_of(&self, unit: &ArchivedUnit, job: &ArchiveJob) -> Option<Timestamp> {
        let kinds = [dozo_postgres::KeyKind::Date, dozo_postgres::KeyKind::Timestamp, dozo_postgres::KeyKind::Timestamptz];
        let zone = job.time_zone.as_deref().and_then(|z| TimeZone::get(z).ok()).unwrap_or(TimeZone::UTC);
        let range: Option<(Edge, Edge)> = kinds.iter().rev().find_map(|kind| label::range(&unit.plan.bound, *kind).ok());
        range.and_then(|(_, end)| end.instant(&zone))
    }
}
