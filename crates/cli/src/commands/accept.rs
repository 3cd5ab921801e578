//! `dozo accept`: somebody looked at a suspect backup and takes it for good.

use dozo_engine::{BackupSelector, accept};

use super::{Outcome, Session};
use crate::args::Accept;

const FINDING: u8 = 3;

pub(super) async fn run(session: &Session, args: Accept) -> Outcome {
    let config = session.config()?;
    let selector: BackupSelector = args.backup.parse()?;
    let repository = config.repository.open().await?;
    let manifest = repository.resolve(&selector).await?;
    let report = accept(&session.ctx, &repository, &manifest, args.reason).await?;
    session.output.result(&report, || {
        let losses: Vec<String> = report.losses.iter().map(|l| format!("\n  {l}")).collect();
        let good = if report.good { "it is good now" } else { "it is still not good: it has open findings" };
        format!("{} is accepted by {}: {good}{}", report.backup, report.accepted.operator.user, losses.concat())
    })?;
    Ok(if report.good { 0 } else { FINDING })
}
