//! What stands around the rows, as scripts for `psql`: definitions before them, indexes and keys behind, then views, statistics and
//! event triggers; with tables that are kept as `sql.gz`, pieces of one script.
//!
//! Owners and grants come last and by themselves: who has none of the roles restores without them. Event triggers would act on
//! whatever follows them: they come after all that is not about roles, and do not act on that. What older servers do not know
//! (settings of a newer pg_dump) and what only psql knows is not in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;

use bytes::Bytes;
use dozo_encode::{BlockWriter, EncodeError};
use dozo_model::{Compression, MaterializedView, PostgresContent, QualifiedName, ScriptFiles, SequenceValue, quote_literal};
use dozo_postgres::{Entry, PgTools, SchemaScript, Section, client_encoding, large_object_statements};

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
        let (plain, owned) = tokio::try_join!(tools.schema_script(dump, &without), tools.schema_script(dump, &[]))?;
        Ok(Self { plain, owned })
    }

    /// Returns the entries that cannot be made because they need a table that is not there.
    pub(super) fn needing(&self, absent: &BTreeSet<QualifiedName>) -> BTreeSet<u32> {
        self.owned.needing(absent)
    }

    /// Writes the files; `skip` are entries that need a table which is not in the backup.
    pub(super) fn files(&self, pg: &PostgresContent, keys: &ScriptFiles, skip: &BTreeSet<u32>) -> Result<Vec<(String, Bytes)>> {
        let settings = settings(&pg.server.encoding);
        let entries = |wanted: &dyn Fn(&Entry) -> bool| {
            let entries = self.plain.entries.iter().filter(|e| !skip.contains(&e.id) && wanted(e));
            entries.map(statements).collect::<String>()
        };
        let section = |section: Section| entries(&|e| e.section == section && !e.is_about_event_triggers());
        let event_triggers = entries(&Entry::is_about_event_triggers);
        let comments = large_object_statements(&pg.large_objects, false, false).join("\n");
        let views = pg.materialized_views.iter().filter(|v| v.populated);
        let files = [
            (&keys.before, section(Section::PreData)),
            (&keys.after, format!("{}{}", sequences(&pg.sequences), section(Section::PostData))),
            (
                &keys.last,
                format!(
                    "{comments}\n{}SET client_min_messages = error;\nANALYZE;\n\n{event_triggers}",
                    views.map(refresh).collect::<String>()
                ),
            ),
            (&keys.owners, self.owners(pg, skip)?),
        ];
        files.into_iter().map(|(key, text)| Ok((key.clone(), gzip(key, &format!("{settings}\n{text}"))?))).collect()
    }

    /// Writes what the script with owners has and the other has not.
    fn owners(&self, pg: &PostgresContent, skip: &BTreeSet<u32>) -> Result<String> {
        let plain: BTreeMap<u32, &Entry> = self.plain.entries.iter().map(|e| (e.id, e)).collect();
        let mut out = String::new();
        if self.plain.entries.iter().any(Entry::is_about_event_triggers) {
            out.push_str("SET session_replication_role = replica;\n\n");
        }
        for entry in self.owned.entries.iter().filter(|e| !skip.contains(&e.id)) {
            let more = match plain.get(&entry.id) {
                Some(without) => entry.sql.strip_prefix(without.sql.trim_end()).ok_or_else(|| {
                    EngineError::Internal(format!("{} is another definition with its owner than without", entry.label()))
                })?,
                None => entry.sql.as_str(),
            };
            if !more.trim().is_empty() {
                let _ = writeln!(out, "{}\n", more.trim());
            }
        }
        for statement in large_object_statements(&pg.large_objects, true, true) {
            let _ = writeln!(out, "{statement}");
        }
        Ok(out)
    }
}

/// Settings that every file begins with: a file may be run by itself, or behind rows, whose settings are not those of definitions and
/// views.
fn settings(encoding: &str) -> String {
    format!(
        "SET statement_timeout = 0;\nSET lock_timeout = 0;\nSET idle_in_transaction_session_timeout = 0;\n\
         SET client_encoding = '{}';\nSET standard_conforming_strings = on;\nSET search_path = '';\n\
         SET check_function_bodies = false;\nSET xmloption = content;\nSET client_min_messages = warning;\nSET row_security = off;\n\
         RESET TimeZone;\nRESET DateStyle;\nRESET IntervalStyle;\nRESET extra_float_digits;\nRESET bytea_output;\nRESET lc_monetary;\n",
        client_encoding(encoding)
    )
}

/// Writes an entry's statements. The schema that every new database has may be there.
fn statements(entry: &Entry) -> String {
    let sql = entry.sql.trim();
    if entry.kind == "SCHEMA" && entry.name == "public" {
        return format!("{}\n\n", sql.replacen("CREATE SCHEMA public;", "CREATE SCHEMA IF NOT EXISTS public;", 1));
    }
    format!("{sql}\n\n")
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
