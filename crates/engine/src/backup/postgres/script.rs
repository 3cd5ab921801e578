//! What stands around the rows of a backup whose form is `sql.gz`: definitions before them, indexes and keys behind, then views
//! and statistics, each file a script that `psql` runs by itself or as a piece of the whole.
//!
//! Owners and grants come last and by themselves: who has none of the roles restores without them. What older servers do not know
//! (settings of a newer pg_dump) and what only psql knows is not in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;

use bytes::Bytes;
use dozo_encode::{BlockWriter, EncodeError};
use dozo_model::{Compression, MaterializedView, PostgresContent, ScriptFiles, SequenceValue, quote_literal};
use dozo_postgres::{Entry, PgTools, SchemaScript, Section, client_encoding, large_object_statements, subscription_statements};

use crate::stored::GZIP_LEVEL;
use crate::{EngineError, Result};

/// The entries of a schema, with and without owners and grants.
pub(super) struct Script {
    plain: SchemaScript,
    owned: SchemaScript,
}

impl Script {
    /// Takes a dump apart.
    pub(super) async fn read(tools: &PgTools, dump: &[u8]) -> Result<Self> {
        let without = ["--no-owner", "--no-privileges"].map(str::to_owned);
        Ok(Self { plain: tools.schema_script(dump, &without).await?, owned: tools.schema_script(dump, &[]).await? })
    }

    /// Writes the files; `skip` are entries that need a table which is not in the backup.
    pub(super) fn files(&self, pg: &PostgresContent, keys: &ScriptFiles, skip: &BTreeSet<u32>) -> Result<Vec<(String, Bytes)>> {
        let settings = settings(&pg.server.encoding);
        let section = |section: Section| {
            let entries = self.plain.entries.iter().filter(|e| e.section == section && !skip.contains(&e.id));
            entries.map(|e| statements(&e.sql)).collect::<String>()
        };
        let views = pg.materialized_views.iter().filter(|v| v.populated);
        let files = [
            (&keys.before, section(Section::PreData)),
            (&keys.after, format!("{}{}", sequences(&pg.sequences), section(Section::PostData))),
            (&keys.last, format!("{}SET client_min_messages = error;\nANALYZE;\n", views.map(refresh).collect::<String>())),
            (&keys.owners, self.owners(pg, skip)),
        ];
        files.into_iter().map(|(key, text)| Ok((key.clone(), gzip(key, &format!("{settings}\n{text}"))?))).collect()
    }

    /// Writes what the script with owners has and the other has not.
    fn owners(&self, pg: &PostgresContent, skip: &BTreeSet<u32>) -> String {
        let plain: BTreeMap<u32, &Entry> = self.plain.entries.iter().map(|e| (e.id, e)).collect();
        let mut out = String::new();
        for entry in self.owned.entries.iter().filter(|e| !skip.contains(&e.id)) {
            let more = match plain.get(&entry.id) {
                Some(without) => entry.sql.strip_prefix(without.sql.trim_end()).unwrap_or_default(),
                None => entry.sql.as_str(),
            };
            if !more.trim().is_empty() {
                out.push_str(&statements(more));
            }
        }
        let large = large_object_statements(&pg.large_objects, true, true);
        for statement in large.iter().chain(&subscription_statements(&pg.database.subscriptions, true)) {
            let _ = writeln!(out, "{statement}");
        }
        out
    }
}

/// Settings that every file begins with: a file may be run by itself.
fn settings(encoding: &str) -> String {
    format!(
        "SET statement_timeout = 0;\nSET lock_timeout = 0;\nSET idle_in_transaction_session_timeout = 0;\n\
         SET client_encoding = '{}';\nSET standard_conforming_strings = on;\nSET search_path = '';\n\
         SET check_function_bodies = false;\nSET xmloption = content;\nSET client_min_messages = warning;\nSET row_security = off;\n",
        client_encoding(encoding)
    )
}

/// Writes an entry's statements. The schema that every new database has may be there.
fn statements(sql: &str) -> String {
    format!("{}\n\n", sql.trim().replace("CREATE SCHEMA public;", "CREATE SCHEMA IF NOT EXISTS public;"))
}

fn sequences(values: &[SequenceValue]) -> String {
    let call = |s: &SequenceValue| {
        format!("SELECT pg_catalog.setval({}, {}, {});\n", quote_literal(&s.name.sql()), s.last_value, s.is_called)
    };
    values.iter().map(call).collect::<String>() + "\n"
}

fn refresh(view: &MaterializedView) -> String {
    format!("REFRESH MATERIALIZED VIEW {};\n", view.name.sql())
}

fn gzip(key: &str, text: &str) -> Result<Bytes> {
    let failed = |source| EngineError::Encode { object: key.to_owned(), source };
    let mut writer = BlockWriter::inline(Compression::Gzip, GZIP_LEVEL, 1 << 20, Vec::new());
    writer.write_all(text.as_bytes()).map_err(|e| failed(EncodeError::stream(&e)))?;
    Ok(writer.finish().map_err(failed)?.0.into())
}
