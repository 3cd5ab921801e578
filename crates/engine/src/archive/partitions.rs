//! Partitions to come, made as those that are there; and those in quarantine, dropped once the ledger proves them.

use std::time::Duration;

use dozo_catalog::Repository;
use dozo_model::{Period, QualifiedName};
use dozo_postgres::{LedgerState, Session, ledger_rows, like_sibling, partman_manages, tree};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::apply::{ArchivedLine, of_unit, with_run};
use super::job::{ArchiveJob, Granularity};
use super::label::{self, Edge};
use super::survey::Survey;
use crate::context::{Context, RepositorySettings, SourceSettings};
use crate::{EngineError, Result};

/// A partition that was made, or would be.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CreatedPartition {
    /// Table.
    pub table: QualifiedName,
    /// Partition.
    pub partition: QualifiedName,
    /// Bound.
    pub bound: String,
    /// Its statements.
    pub statements: Vec<String>,
}

/// Makes partitions so that `ahead` of them lie behind the one of now.
///
/// # Errors
/// When the existing ones have no pattern; what the server says.
pub async fn partitions_create(
    ctx: &Context,
    source: &SourceSettings,
    table: &QualifiedName,
    ahead: usize,
    zone: &str,
    only_say: bool,
) -> Result<Vec<CreatedPartition>> {
    let Some(postgres) = source.postgres() else {
        return Err(EngineError::Options(format!("source `{}` is no Postgres database", source.name)));
    };
    let zone = TimeZone::get(zone).map_err(|e| EngineError::Options(format!("time-zone: {e}")))?;
    let session = Session::connect_as(&postgres.connection()?, "dozo partitions").await?;
    let facts = session.facts().await?;
    let found = tree(&session, table).await?.ok_or_else(|| EngineError::NoTable(table.clone()))?;
    if partman_manages(&session, table).await? {
        return Err(EngineError::Options(format!("pg_partman makes the partitions of {table}: partman.run_maintenance()")));
    }
    let Some((_, Some(kind))) = found.root().key.clone() else {
        return Err(EngineError::Options(format!("{table} is not partitioned by RANGE over a date, timestamp or timestamptz")));
    };
    let mut ranges: Vec<(Edge, Edge, QualifiedName)> = found
        .tables
        .iter()
        .filter(|t| t.parent == found.root().oid)
        .filter_map(|t| label::range(&t.bound, kind).ok().map(|(from, to)| (from, to, t.name.clone())))
        .collect();
    ranges.sort_by_key(|(_, to, _)| to.civil(&zone));
    let Some((from, to, last)) = ranges.last().cloned() else {
        return Err(EngineError::Options(format!("{table} has no partition with two ends to go by")));
    };
    let width = label::width((from, to), &zone).ok_or_else(|| {
        EngineError::Options(format!(
            "{last} is no day, week, month or year of {}: set time-zone",
            zone.iana_name().unwrap_or("UTC")
        ))
    })?;
    let now = ctx.clock.fixed().unwrap_or(facts.now).to_zoned(zone.clone()).datetime();
    let mut made = Vec::new();
    let (mut begin, mut beyond) = (to.civil(&zone), ranges.iter().filter(|(from, ..)| from.civil(&zone) > now).count());
    while beyond < ahead {
        let end = label::next(begin, width).ok_or_else(|| EngineError::Options("the calendar ends".into()))?;
        let name = renamed(&last.name, from.civil(&zone), begin, width).ok_or_else(|| {
            EngineError::Options(format!(
                "the name of {last} says nothing of its {} by the calendar of {}: set time-zone, or make the next by hand",
                width.as_str(),
                zone.iana_name().unwrap_or("UTC")
            ))
        })?;
        let partition = QualifiedName::new(&last.schema, name);
        let edge = |at: DateTime| match to {
            Edge::Civil(_) => Some(Edge::Civil(at)),
            Edge::Instant(_) => Edge::Civil(at).instant(&zone).map(Edge::Instant),
        };
        let (Some(a), Some(b)) = (edge(begin), edge(end)) else {
            return Err(EngineError::Options(format!("{begin} does not exist in {}", zone.iana_name().unwrap_or("UTC"))));
        };
        let bound = label::bound_sql((a, b));
        let statements = like_sibling(&session, table, &last, &partition, &bound).await?;
        if !only_say {
            session.batch(&format!("making {partition}"), &format!("BEGIN; {}; COMMIT", statements.join("; "))).await?;
        }
        made.push(CreatedPartition { table: table.clone(), partition, bound, statements });
        beyond += usize::from(begin > now);
        begin = end;
    }
    Ok(made)
}

/// Puts another time into a name that holds one, as the name writes it.
fn renamed(name: &str, was: DateTime, next: DateTime, width: Granularity) -> Option<String> {
    let day = ["%Y_%m_%d", "%Y-%m-%d", "%Y%m%d", "y%Ym%md%d"];
    let forms: Vec<&str> = match width {
        Granularity::Day => day.to_vec(),
        Granularity::Week => [&["%G_w%V", "%Gw%V", "%G_W%V", "%GW%V", "%G_%V"][..], &day].concat(),
        Granularity::Month => [&["%Y_%m", "%Y-%m", "%Y%m", "y%Ym%m"][..], &day].concat(),
        Granularity::Year => [&day[..], &["%Y"]].concat(),
    };
    forms.into_iter().find_map(|form| {
        let (old, new) = (was.strftime(form).to_string(), next.strftime(form).to_string());
        // What a longer form would have matched must not be cut in the middle.
        let at = name.rfind(&old)?;
        let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        let apart = !digit(name[..at].chars().next_back()) && !digit(name[at + old.len()..].chars().next());
        apart.then(|| format!("{}{new}{}", &name[..at], &name[at + old.len()..]))
    })
}

/// Drops quarantined partitions whose range ended longer ago than `older_than`, whatever their job says, once they are proven.
///
/// # Errors
/// See [`EngineError`]; what one partition meets is in its line.
pub async fn partitions_drop(
    ctx: &Context,
    repository: &Repository,
    settings: &RepositorySettings,
    source: &SourceSettings,
    jobs: &[&ArchiveJob],
    older_than: Period,
) -> Result<Vec<ArchivedLine>> {
    with_run(ctx, repository, settings, source, Duration::ZERO, async |run| {
        let _ = run.reconcile(jobs).await?;
        let survey = Survey::look(Some(run.repository), run.source, jobs, run.ctx.clock.fixed()).await?;
        let session = Session::connect_as(&run.info, "dozo archive").await?;
        let rows = ledger_rows(&session).await?;
        let limit = older_than.limit(survey.now, &TimeZone::UTC);
        let mut lines = Vec::new();
        for unit in survey.units.iter().filter(|u| !u.last.state.is_last()) {
            let Some(row) = rows.iter().find(|r| r.unit == unit.plan.unit.as_str() && r.state == LedgerState::Detached) else {
                continue;
            };
            let Some(job) = jobs.iter().find(|j| j.name == unit.plan.job) else { continue };
            let old = matches!((survey.end_of(unit, job), limit), (Some(end), Some(limit)) if end <= limit);
            if !old {
                continue;
            }
            lines.push(if unit.is_published() {
                run.dropping(unit.clone(), row).await?
            } else {
                of_unit(&run, unit, "refused", 0, vec!["it is not published yet: dozo archive apply".into()])
            });
        }
        Ok(lines)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_pattern_of_the_others() {
        let at = |text: &str| text.parse::<DateTime>().unwrap();
        let next = |name: &str, was: &str, new: &str, width| renamed(name, at(was), at(new), width);
        let (m, d, y, w) = (Granularity::Month, Granularity::Day, Granularity::Year, Granularity::Week);
        assert_eq!(next("orders_2025_12", "2025-12-01T00:00", "2026-01-01T00:00", m).unwrap(), "orders_2026_01");
        assert_eq!(next("orders_p2025_12_01", "2025-12-01T00:00", "2026-01-01T00:00", m).unwrap(), "orders_p2026_01_01");
        assert_eq!(next("orders_p20251201", "2025-12-01T00:00", "2025-12-02T00:00", d).unwrap(), "orders_p20251202");
        assert_eq!(next("y2025m12", "2025-12-01T00:00", "2026-01-01T00:00", m).unwrap(), "y2026m01");
        assert_eq!(next("log_2025", "2025-01-01T00:00", "2026-01-01T00:00", y).unwrap(), "log_2026");
        assert_eq!(next("log_2025_w01", "2024-12-30T00:00", "2025-01-06T00:00", w).unwrap(), "log_2025_w02");
        assert_eq!(next("orders_current", "2025-12-01T00:00", "2026-01-01T00:00", m), None);
    }
}
