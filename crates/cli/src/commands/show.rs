//! `dozo show`: one backup in full.

use dozo_engine::BackupSelector;
use dozo_model::{Manifest, human_bytes, human_count};
use serde_json::json;

use super::{Outcome, Session, when};
use crate::args::Show;
use crate::output::table;

pub(super) async fn run(session: &Session, args: Show) -> Outcome {
    let config = session.config()?;
    let selector: BackupSelector = args.backup.parse()?;
    let repository = config.repository.open().await?;
    let manifest = repository.resolve(&selector).await?;
    let checks = repository.checks(&manifest.source, &manifest.id).await?;
    session.output.result(&json!({ "manifest": manifest, "checks": checks }), || {
        let mut text = head(&manifest);
        for check in &checks {
            text.push_str(&format!(
                "check {} at {}: {:?}, {} findings\n",
                check.level.as_str(),
                when(Some(check.at)),
                check.verdict,
                check.findings.len()
            ));
        }
        let rows = manifest
            .datasets
            .iter()
            .map(|d| {
                let range = d.key_range.as_ref().map_or_else(String::new, |r| format!("{} {} … {}", r.column, r.min, r.max));
                vec![
                    d.name.to_string(),
                    human_count(d.fingerprint.rows),
                    d.fingerprint.to_string(),
                    d.parts.len().to_string(),
                    range,
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&table(&["TABLE", "ROWS", "FINGERPRINT", "PARTS", "KEY RANGE"], &[1, 3], rows));
        for left in &manifest.left_out {
            text.push_str(&format!("\nnot in it: {} ({})", left.name, left.reason));
        }
        text
    })?;
    Ok(0)
}

fn head(m: &Manifest) -> String {
    let escaped: u64 = m.datasets.iter().flat_map(|d| d.escaped.values()).sum();
    format!(
        "backup      {}@{}{}\n\
         database    {} of Postgres {} (system {}, timeline {})\n\
         snapshot    {} at {}\n\
         contents    {} tables and partitions, {} rows, {} sequences, {} materialized views, {escaped} values in the exact column\n\
         stored      {} in {} objects\n\
         made by     {} {} as {} on {}\n",
        m.source,
        m.id,
        if m.complete { "" } else { " (partial)" },
        m.server.database,
        m.server.version,
        m.server.system_identifier.as_deref().unwrap_or("unknown"),
        m.server.timeline.map_or_else(|| "unknown".into(), |t| t.to_string()),
        m.snapshot.snapshot,
        when(Some(m.started)),
        m.datasets.len(),
        human_count(m.rows()),
        m.sequences.len(),
        m.materialized_views.len(),
        human_bytes(m.stored_bytes()),
        m.objects.len(),
        m.tool.name,
        m.tool.version,
        m.operator.user,
        m.operator.host,
    )
}
