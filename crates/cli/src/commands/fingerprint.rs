//! `dozo fingerprint`: what Postgres itself says about live tables.

use dozo_engine::{fingerprint, fingerprint_statements};
use dozo_model::Algorithm;

use super::{Outcome, Session, database};
use crate::args::Fingerprint;
use crate::output::{Output, table};

pub(super) async fn run(session: &Session, args: Fingerprint) -> Outcome {
    let info = database(session, &args.database)?;
    let algorithm = if args.text { Algorithm::T1 } else { Algorithm::B1 };
    if args.sql {
        Output::print(&fingerprint_statements(&info, &args.tables, algorithm).await?)?;
        return Ok(0);
    }
    let report = fingerprint(&session.ctx, &info, &args.tables, algorithm).await?;
    session.output.result(&report, || {
        let rows = report.tables.iter().map(|l| vec![l.table.to_string(), l.fingerprint.to_string()]).collect();
        table(&["TABLE", "FINGERPRINT"], &[], rows)
    })?;
    Ok(0)
}
