//! `dozo source`: the servers that backups came from, and which of them continue each other.

use dozo_engine::Incarnation;
use dozo_model::{FORMAT_VERSION, RebindRecord, SourceName};
use serde::Serialize;

use super::{Outcome, Session, when};
use crate::args::{SourceArgs, SourceVerb};
use crate::error::{CliError, Usage};
use crate::output::table;

/// A source and its servers.
#[derive(Serialize)]
struct Servers {
    source: SourceName,
    servers: Vec<Incarnation>,
}

pub(super) async fn run(session: &Session, args: SourceArgs) -> Outcome {
    let config = session.config()?;
    let repository = config.repository.open().await?;
    let facts = repository.retention_facts().await?;
    let wrong = |text: String| CliError::Usage(Usage::UnknownServer, text, "dozo source list".into());
    match args.verb {
        SourceVerb::List => {
            let names: std::collections::BTreeSet<&SourceName> = facts.backups.iter().map(|b| &b.source).collect();
            let all: Vec<Servers> =
                names.into_iter().map(|s| Servers { source: s.clone(), servers: facts.incarnations(s) }).collect();
            session.output.result(&all, || {
                let rows = all.iter().flat_map(|s| s.servers.iter().map(|i| row(&s.source, i)));
                table(&["SOURCE", "SERVER", "BACKUPS", "FIRST", "NEWEST", "COUNTED WITH"], &[2], rows.collect())
            })?;
        }
        SourceVerb::Rebind { source, servers, reason } => {
            let name = SourceName::parse(&source).map_err(|e| wrong(e.to_string()))?;
            let known: Vec<String> = facts.incarnations(&name).into_iter().filter_map(|i| i.server).collect();
            if let Some(unknown) = servers.iter().find(|s| !known.contains(s)) {
                return Err(wrong(format!("no backup of `{source}` came from server {unknown}")));
            }
            let servers = if servers.is_empty() { known } else { servers };
            if servers.len() < 2 {
                return Err(wrong(format!("the backups of `{source}` came from one server: there is nothing to join")));
            }
            let (at, operator) = (session.ctx.clock.now(), session.ctx.operator.clone());
            let record = RebindRecord { format: FORMAT_VERSION, servers, at, reason, operator };
            repository.rebind(&name, &record).await?;
            session.output.result(&record, || {
                format!(
                    "backups of {name} from servers {} are counted together\n  next: dozo retention plan {name}",
                    record.servers.join(", ")
                )
            })?;
        }
    }
    Ok(0)
}

fn row(source: &SourceName, i: &Incarnation) -> Vec<String> {
    let server = i.server.clone().unwrap_or_else(|| "not told".into());
    let joined = if i.joined.is_empty() { "-".into() } else { i.joined.join(", ") };
    vec![source.to_string(), server, i.backups.to_string(), when(Some(i.first)), when(Some(i.newest)), joined]
}
