//! `dozo gc plan`: what belongs to no backup. Nothing is changed.

use dozo_model::human_bytes;

use super::{Outcome, Session, when};
use crate::args::{Gc, GcVerb};

pub(super) async fn run(session: &Session, args: Gc) -> Outcome {
    // A bare `gc` plans.
    let GcVerb::Plan = args.verb.unwrap_or(GcVerb::Plan);
    let config = session.config()?;
    let repository = config.repository.open().await?;
    let plan = repository.gc_plan().await?;
    session.output.result(&plan, || {
        let mut lines = Vec::new();
        for b in &plan.uncommitted {
            let state = match (b.running, b.aborted) {
                (true, _) => "running",
                (_, true) => "aborted",
                _ => "never committed",
            };
            lines.push(format!(
                "{}@{}  {state}, started {}, {} objects, {}",
                b.source,
                b.id,
                when(b.started),
                b.objects,
                human_bytes(b.bytes)
            ));
        }
        lines.extend(plan.orphans.iter().map(|key| format!("{key}  named by no manifest")));
        lines.extend(plan.staged.iter().map(|key| format!("{key}  left by a killed upload")));
        lines.extend(plan.unreadable.iter().map(|why| format!("unreadable: {why}; nothing may be deleted while this is so")));
        if lines.is_empty() { "nothing: every object belongs to a backup".into() } else { lines.join("\n") }
    })?;
    Ok(0)
}
