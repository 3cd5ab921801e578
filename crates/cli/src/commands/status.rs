//! `dozo status`: a line per source.

use dozo_engine::{ReplicaLag, status};
use dozo_model::human_bytes;

use super::list::verified;
use super::{Outcome, Session, age, when};
use crate::output::table;

pub(super) async fn run(session: &Session) -> Outcome {
    let config = session.config()?;
    let repository = config.repository.open().await?;
    let sources = status(&session.ctx, &repository, &config.repository.replicas, &config.names()).await?;
    session.output.result(&sources, || {
        let rows = sources
            .iter()
            .map(|s| {
                let newest = s.newest.as_ref();
                vec![
                    s.source.to_string(),
                    s.backups.to_string(),
                    newest.map_or_else(|| "none".into(), |l| when(l.started)),
                    age(newest.and_then(|l| l.age_seconds)),
                    newest.map_or("-", |l| l.state).to_owned(),
                    s.newest_good.as_ref().map_or_else(|| "none".into(), |l| when(l.started)),
                    newest.map_or_else(|| "-".into(), verified),
                    when(newest.and_then(|l| l.proven)),
                    when(newest.and_then(|l| l.drilled)),
                    replicas(&s.replicas),
                    s.fewest_copies.as_ref().map_or_else(|| "-".into(), |(_, n)| n.to_string()),
                    human_bytes(s.bytes),
                ]
            })
            .collect();
        table(
            &[
                "SOURCE",
                "BACKUPS",
                "NEWEST",
                "AGE",
                "STATE",
                "NEWEST GOOD",
                "VERIFIED",
                "PROVEN",
                "DRILLED",
                "REPLICAS",
                "COPIES",
                "SIZE",
            ],
            &[1, 10, 11],
            rows,
        )
    })?;
    let mut told: Vec<&str> = Vec::new();
    for lag in sources.iter().flat_map(|s| &s.replicas) {
        if let Some(why) = lag.unreachable.as_ref().filter(|_| !told.contains(&lag.replica.as_str())) {
            session.output.message(&format!("warning: replica {} was not reached: {why}", lag.replica));
            told.push(&lag.replica);
        }
    }
    Ok(0)
}

/// The worst of all replicas.
fn replicas(lags: &[ReplicaLag]) -> String {
    if lags.is_empty() {
        return "-".into();
    }
    let unreachable: Vec<&str> = lags.iter().filter(|l| l.unreachable.is_some()).map(|l| l.replica.as_str()).collect();
    if !unreachable.is_empty() {
        return format!("{} not reached", unreachable.join(", "));
    }
    match lags.iter().filter_map(|l| Some((l.missing?, l))).max_by_key(|(missing, _)| *missing) {
        Some((0, _)) | None => "complete".into(),
        Some((missing, lag)) => format!("{} lacks {missing}, {} behind", lag.replica, age(lag.lag_seconds)),
    }
}
