//! `dozo status`: a line per source.

use dozo_engine::status;
use dozo_model::human_bytes;

use super::list::verified;
use super::{Outcome, Session, age, when};
use crate::output::table;

pub(super) async fn run(session: &Session) -> Outcome {
    let config = session.config()?;
    let repository = config.repository.open().await?;
    let sources = status(&session.ctx, &repository, &config.names()).await?;
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
                    s.fewest_copies.as_ref().map_or_else(|| "-".into(), |(_, n)| n.to_string()),
                    human_bytes(s.bytes),
                ]
            })
            .collect();
        table(
            &["SOURCE", "BACKUPS", "NEWEST", "AGE", "STATE", "NEWEST GOOD", "VERIFIED", "PROVEN", "DRILLED", "COPIES", "SIZE"],
            &[1, 9, 10],
            rows,
        )
    })?;
    Ok(0)
}
