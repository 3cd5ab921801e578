//! `dozo partitions`: where each partition stands, those to come, those in quarantine.

use dozo_engine::{CreatedPartition, partitions_create, partitions_drop, partitions_list};
use dozo_model::{QualifiedName, human_bytes, human_count};

use super::archive::{lines, source_of};
use super::{Outcome, Session};
use crate::args::{Partitions, PartitionsVerb};
use crate::output::table;

pub(super) async fn run(session: &Session, args: Partitions) -> Outcome {
    let config = session.config()?;
    match args.verb.unwrap_or(PartitionsVerb::List { source: None, tables: vec![] }) {
        PartitionsVerb::List { source, tables } => {
            let source = source_of(&config, source.as_deref())?;
            let repository = config.repository.open().await?;
            let found = partitions_list(&repository, source, &names(&tables)).await?;
            session.output.result(&found, || {
                let rows = found.iter().map(|p| {
                    vec![
                        p.table.to_string(),
                        p.partition.to_string(),
                        p.bound.clone(),
                        human_count(p.rows),
                        human_bytes(p.bytes),
                        p.states.join(", "),
                        p.unit.clone().unwrap_or_default(),
                    ]
                });
                table(&["TABLE", "PARTITION", "BOUND", "ROWS", "SIZE", "STATE", "UNIT"], &[3, 4], rows.collect())
            })?;
            Ok(0)
        }
        PartitionsVerb::Create { source, tables, ahead, time_zone, sql } => {
            let source = source_of(&config, source.as_deref())?;
            let mut made: Vec<CreatedPartition> = Vec::new();
            for table in names(&tables) {
                let of_job = config.archives.iter().find(|a| a.source == source.name && a.table == table);
                let zone = time_zone
                    .clone()
                    .or_else(|| of_job.and_then(|j| j.time_zone.clone()))
                    .unwrap_or_else(|| config.time_zone.clone());
                made.extend(partitions_create(&session.ctx, source, &table, ahead, &zone, sql).await?);
            }
            session.output.result(&made, || match (made.is_empty(), sql) {
                (true, _) => format!("nothing to do: {ahead} partitions lie ahead already"),
                (false, true) => made.iter().flat_map(|m| &m.statements).map(|s| format!("{s};")).collect::<Vec<_>>().join("\n"),
                (false, false) => made.iter().map(|m| format!("{} {}", m.partition, m.bound)).collect::<Vec<_>>().join("\n"),
            })?;
            Ok(0)
        }
        PartitionsVerb::Drop { source, older_than } => {
            let source = source_of(&config, source.as_deref())?;
            let jobs: Vec<_> = config.archives.iter().filter(|j| j.source == source.name).collect();
            let repository = config.repository.open().await?;
            let done = partitions_drop(&session.ctx, &repository, &config.repository, source, &jobs, older_than).await?;
            lines(session, &done)
        }
    }
}

fn names(tables: &[String]) -> Vec<QualifiedName> {
    let name = |text: &String| match text.split_once('.') {
        Some((schema, table)) => QualifiedName::new(schema, table),
        None => QualifiedName::new("public", text),
    };
    tables.iter().map(name).collect()
}
