//! The plan: what is done with each partition, in which order, and what stands in the way of the rest.
//!
//! A function of what was found ([`Survey`]). *Order*: what refers comes before what it refers to; whatever stays keeps what it refers
//! to, by name. Refusals are all told at once.

use std::collections::HashMap;

use dozo_catalog::ArchivedUnit;
use dozo_model::{QualifiedName, Timestamp, UnitState, human_count};
use dozo_postgres::LedgerState;
use serde::Serialize;

use super::job::Then;
use super::survey::{Candidate, Survey};

/// What is to be done with a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitAction {
    /// It is exported, proven, detached, published; then quarantined or dropped.
    Archive,
    /// A copy of it is published.
    Copy,
    /// It left its table; its files are to be published.
    Publish,
    /// Its quarantine is over: it is dropped, once its files were read back.
    Drop,
    /// It waits in quarantine.
    Wait,
    /// It stays: it is young, or kept rows refer to it.
    Stay,
    /// It stays until somebody does something.
    Refused,
}

/// A partition in the plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct UnitLine {
    /// Job.
    pub job: String,
    /// Source.
    pub source: String,
    /// Partition.
    pub partition: QualifiedName,
    /// Bound.
    pub bound: String,
    /// Folder of the archive.
    pub label: Option<String>,
    /// Rows: counted where it was exported, else as the server estimates them.
    pub rows: u64,
    /// Bytes with indexes and TOAST; of a partition that is gone: none.
    pub bytes: u64,
    /// What is to be done.
    pub action: UnitAction,
    /// Its place in the order; none = nothing is done.
    pub order: Option<usize>,
    /// Why it stays, or until when it waits.
    pub reasons: Vec<String>,
    /// Its unit, where it has one.
    pub unit: Option<String>,
}

/// A job in the plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobLine {
    /// Job.
    pub job: String,
    /// Source.
    pub source: String,
    /// Table.
    pub table: QualifiedName,
    /// What becomes of partitions.
    pub then: Then,
    /// Why nothing of it can be done.
    pub refusals: Vec<String>,
    /// What people should know.
    pub notes: Vec<String>,
}

/// What an archive run would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ArchivePlan {
    /// The moment that ages are counted from.
    pub now: Timestamp,
    /// Jobs.
    pub jobs: Vec<JobLine>,
    /// Partitions: first what is done, in its order.
    pub units: Vec<UnitLine>,
}

impl ArchivePlan {
    /// Puts the plan of another source behind.
    pub(crate) fn add(&mut self, other: Self) {
        let done = self.units.iter().filter_map(|u| u.order).max().unwrap_or(0);
        self.jobs.extend(other.jobs);
        self.units.extend(other.units.into_iter().map(|u| UnitLine { order: u.order.map(|n| n + done), ..u }));
        self.units.sort_by_key(|u| u.order.unwrap_or(usize::MAX));
    }
}

/// What a plan does with a candidate.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fate {
    /// It leaves, or is copied.
    Go,
    /// It stays, as was to be expected.
    Stay(Vec<String>),
    /// It stays until somebody does something.
    Refused(Vec<String>),
}

/// Decides about every candidate. Returns their fates, and the order in which those that go do so.
pub(crate) fn decide(survey: &Survey<'_>) -> (Vec<Fate>, Vec<usize>) {
    let copies = |c: &Candidate| survey.jobs[c.job].job.then == Then::Keep;
    let mut fates: Vec<Fate> = survey
        .candidates
        .iter()
        .map(|c| {
            let of_job = &survey.jobs[c.job].refusals;
            let why: Vec<String> = of_job.iter().chain(&c.refusals).cloned().collect();
            match (c.young, why.is_empty()) {
                // Of what is not old enough nobody needs to know what else would stand in its way.
                (true, _) => Fate::Stay(vec![c.open.clone().unwrap_or_else(|| "it is not old enough".into())]),
                (false, false) => Fate::Refused(why),
                (false, true) => match survey.unit_of(c) {
                    Some(unit) if copies(c) && unit.is_published() => {
                        Fate::Stay(vec![format!("it was copied as unit {}", unit.plan.unit)])
                    }
                    _ if c.idle_stub => Fate::Stay(vec!["it is there for late rows".into()]),
                    _ => Fate::Go,
                },
            }
        })
        .collect();
    let owner: HashMap<u32, usize> =
        survey.candidates.iter().enumerate().flat_map(|(i, c)| c.leaves.iter().map(move |oid| (*oid, i))).collect();
    // Whatever stays keeps what it refers to; that may keep something else.
    loop {
        let mut changed = false;
        for (i, candidate) in survey.candidates.iter().enumerate() {
            if fates[i] != Fate::Go || copies(candidate) {
                continue;
            }
            let leaves = |j: usize| fates[j] == Fate::Go && !copies(&survey.candidates[j]);
            let keeping: Vec<String> = candidate
                .referring
                .iter()
                .filter(|r| owner.get(&r.table).is_none_or(|j| !leaves(*j)))
                .map(|r| format!("{} rows of {}, which stays, refer to it", human_count(r.rows), r.name))
                .collect();
            if !keeping.is_empty() {
                fates[i] = Fate::Stay(keeping);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    let (mut order, mut state) = (Vec::new(), vec![Visit::New; survey.candidates.len()]);
    // Of those that need not wait for each other, the oldest first.
    let mut by_age: Vec<usize> = (0..survey.candidates.len()).collect();
    by_age.sort_by(|a, b| {
        let key = |i: usize| (survey.candidates[i].end, survey.candidates[i].job, &survey.candidates[i].partition.name);
        key(*a).cmp(&key(*b))
    });
    for i in by_age {
        visit(i, survey, &owner, &mut state, &mut order, &mut fates);
    }
    (fates, order)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visit {
    New,
    Open,
    Done,
}

fn visit(
    i: usize,
    survey: &Survey<'_>,
    owner: &HashMap<u32, usize>,
    state: &mut [Visit],
    order: &mut Vec<usize>,
    fates: &mut [Fate],
) {
    if state[i] != Visit::New || fates[i] != Fate::Go {
        return;
    }
    state[i] = Visit::Open;
    for referring in &survey.candidates[i].referring {
        let Some(j) = owner.get(&referring.table).copied() else { continue };
        if state[j] == Visit::Open {
            let name = &survey.candidates[j].partition.name;
            fates[i] = Fate::Refused(vec![format!("it and {name} refer to each other: neither can leave first")]);
        }
        visit(j, survey, owner, state, order, fates);
        // What was to leave before it stays after all: somewhere is a circle.
        if fates[i] == Fate::Go && fates[j] != Fate::Go {
            let name = &survey.candidates[j].partition.name;
            fates[i] = Fate::Stay(vec![format!("{} rows of {name}, which stays, refer to it", human_count(referring.rows))]);
        }
    }
    state[i] = Visit::Done;
    if fates[i] == Fate::Go {
        order.push(i);
    }
}

impl Survey<'_> {
    /// Returns the newest unit of a candidate's partition that is not given up.
    pub(crate) fn unit_of(&self, c: &Candidate) -> Option<&ArchivedUnit> {
        let job = self.jobs[c.job].job;
        self.units.iter().rev().find(|u| {
            u.plan.relid == c.partition.oid
                && u.plan.partition == c.partition.name
                && u.plan.root == job.root()
                && !u.last.state.is_last()
        })
    }

    /// Writes the plan.
    pub(crate) fn plan(&self) -> ArchivePlan {
        let (fates, order) = decide(self);
        let places: HashMap<usize, usize> = order.iter().enumerate().map(|(n, i)| (*i, n + 1)).collect();
        let source = self.source.name.to_string();
        let mut units: Vec<UnitLine> = Vec::new();
        let mut next = order.len();
        for unit in self.units.iter().filter(|u| u.plan.root == "v1") {
            let Some(row) = self.row(unit) else { continue };
            let Some(job) = self.jobs.iter().find(|j| j.job.name == unit.plan.job) else { continue };
            let over = row.left_at.checked_add(job.job.quarantine).ok();
            let (action, reasons) = match row.state {
                LedgerState::Detached | LedgerState::Dropped if !unit.is_published() => (UnitAction::Publish, vec![]),
                LedgerState::Detached if job.job.then != Then::Drop => {
                    (UnitAction::Wait, vec!["in quarantine: `then` drops nothing".into()])
                }
                LedgerState::Detached if over.is_some_and(|over| over <= self.now) => (UnitAction::Drop, vec![]),
                LedgerState::Detached => {
                    let until = over.map_or_else(|| "for ever".into(), |o| format!("until {}", o.strftime("%Y-%m-%d %H:%MZ")));
                    (UnitAction::Wait, vec![format!("in quarantine {until}")])
                }
                LedgerState::Detaching => (UnitAction::Archive, vec!["a concurrent detach of it was begun".into()]),
                LedgerState::Dropped | LedgerState::Restored => continue,
            };
            let acts = matches!(action, UnitAction::Publish | UnitAction::Drop | UnitAction::Archive);
            next += usize::from(acts);
            units.push(UnitLine {
                job: unit.plan.job.clone(),
                source: source.clone(),
                partition: unit.plan.partition.clone(),
                bound: unit.plan.bound.clone(),
                label: Some(unit.plan.label.clone()),
                rows: row.fingerprint.rows,
                bytes: 0,
                action,
                order: acts.then_some(next),
                reasons,
                unit: Some(unit.plan.unit.to_string()),
            });
        }
        for (i, c) in self.candidates.iter().enumerate() {
            let job = self.jobs[c.job].job;
            let (action, reasons) = match &fates[i] {
                Fate::Go if job.then == Then::Keep => (UnitAction::Copy, vec![]),
                Fate::Go => (UnitAction::Archive, vec![]),
                Fate::Stay(why) => (UnitAction::Stay, why.clone()),
                Fate::Refused(why) => (UnitAction::Refused, why.clone()),
            };
            units.push(UnitLine {
                job: job.name.clone(),
                source: source.clone(),
                partition: c.partition.name.clone(),
                bound: c.partition.bound.clone(),
                label: c.label.clone(),
                rows: c.rows,
                bytes: c.bytes,
                action,
                order: places.get(&i).copied(),
                reasons,
                unit: self.unit_of(c).filter(|u| u.last.state == UnitState::Proven).map(|u| u.plan.unit.to_string()),
            });
        }
        units.sort_by_key(|u| (u.order.unwrap_or(usize::MAX), u.job.clone(), u.bound.clone()));
        let jobs = self.jobs.iter().map(|j| {
            let mut notes: Vec<String> = Vec::new();
            notes.extend(
                j.grants.partman.as_ref().map(|set| format!("pg_partman looks after it ({set}): leave its retention off")),
            );
            JobLine {
                job: j.job.name.clone(),
                source: source.clone(),
                table: j.job.table.clone(),
                then: j.job.then,
                refusals: j.refusals.clone(),
                notes,
            }
        });
        ArchivePlan { now: self.now, jobs: jobs.collect(), units }
    }
}
