//! The files beside the rows: the schema in two forms, the roles, and what of the schema needs a table that is not there.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use dozo_model::{BackupId, Files, LeftOut, QualifiedName, ScriptFiles};
use dozo_postgres::{ConnInfo, Coordinator, PgError, PgTools, dependents};
use dozo_store::Layout;

use super::script::Script;
use crate::Result;
use crate::backup::warnings::Warnings;
use crate::context::SourceSettings;

/// What was dumped.
pub(super) struct DumpedFiles {
    pub(super) dump: Bytes,
    pub(super) sql: Bytes,
    pub(super) globals: Option<Bytes>,
    pub(super) script: Script,
    /// Entries of the dump that need a table which is not in it.
    pub(super) unrestorable: BTreeSet<u32>,
}

impl DumpedFiles {
    /// Runs pg_dump under the coordinator's snapshot; `excluded` are tables that it must not touch.
    pub(super) async fn make(
        info: &ConnInfo,
        tools: &PgTools,
        source: &SourceSettings,
        coordinator: &Coordinator,
        excluded: &[(u32, String)],
        warnings: &Warnings,
    ) -> Result<Self> {
        let patterns: Vec<String> = excluded.iter().map(|(_, pattern)| pattern.clone()).collect();
        let timeout = source.lock_timeout.as_millis();
        let dump = tools.dump_schema(info, &coordinator.snapshot_id, &patterns, timeout).await?;
        let sql = tools.dump_to_sql(&dump, None, &[], false).await?;
        let globals = match tools.dump_globals(info).await {
            Ok(bytes) => Some(Bytes::from(bytes)),
            Err(e @ PgError::ToolFailed { .. }) => {
                warnings.add(format!("roles could not be dumped: {e}"));
                None
            }
            Err(e) => return Err(e.into()),
        };
        let script = Script::read(tools, &dump).await?;
        let unrestorable = script.needing(&absent(coordinator, excluded));
        Ok(Self { dump: dump.into(), sql: sql.into(), globals, script, unrestorable })
    }

    pub(super) fn keys(&self, id: &BackupId, source: &SourceSettings) -> (Files, ScriptFiles) {
        let key = |name: &str| Layout::file(&source.name, id, name);
        let script = ScriptFiles {
            before: key("before.sql.gz"),
            after: key("after.sql.gz"),
            last: key("last.sql.gz"),
            owners: key("owners.sql.gz"),
        };
        let files = Files {
            restore_md: key("RESTORE.md"),
            schema_dump: key("schema.dump"),
            schema_sql: key("schema.sql"),
            globals_sql: self.globals.as_ref().map(|_| key("globals.sql")),
            script: Some(script.clone()),
        };
        (files, script)
    }
}

/// Names the tables that the dump was told to leave out.
fn absent(coordinator: &Coordinator, excluded: &[(u32, String)]) -> BTreeSet<QualifiedName> {
    let hidden: BTreeSet<u32> = excluded.iter().map(|(oid, _)| *oid).collect();
    coordinator.tables.iter().filter(|t| hidden.contains(&t.oid)).map(|t| t.name.clone()).collect()
}

/// Says which foreign keys and views need a table that is not in the dump.
pub(super) async fn note_dependents(coordinator: &Coordinator, hidden: &[(u32, String)], left_out: &mut [LeftOut]) -> Result<()> {
    let oids: Vec<u32> = hidden.iter().map(|(oid, _)| *oid).collect();
    if oids.is_empty() {
        return Ok(());
    }
    let mut needed = dependents(coordinator.session(), &oids).await?;
    let by_name: HashMap<&QualifiedName, u32> = coordinator.tables.iter().map(|t| (&t.name, t.oid)).collect();
    for left in left_out {
        left.needed_by = by_name.get(&left.name).and_then(|oid| needed.remove(oid)).unwrap_or_default();
    }
    Ok(())
}
