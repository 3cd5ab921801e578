//! Takes the SQL of a schema dump apart into its entries, with their dependencies.
//!
//! `pg_restore --verbose --file=-` heads every entry with its number, its dependencies, name, type and schema
//! (`_printTocEntry` in `pg_backup_archiver.c`). dozo runs the entries itself: each in one transaction with a row of
//! progress, in parallel where they may, which a `pg_restore` that outlives a killed dozo could not do safely.

use std::collections::{BTreeSet, HashMap};

use dozo_model::QualifiedName;

use crate::rewrite::{mentions, token_length};

/// Which part of a dump an entry is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Before the rows.
    PreData,
    /// After the rows.
    PostData,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Number in the dump.
    pub id: u32,
    /// Numbers of the entries that it needs.
    pub needs: Vec<u32>,
    /// Name.
    pub name: String,
    /// `TABLE`, `INDEX`, `FK CONSTRAINT`, …
    pub kind: String,
    /// Schema.
    pub schema: Option<String>,
    /// Section.
    pub section: Section,
    /// Statements.
    pub sql: String,
}

impl Entry {
    /// Returns kind and name for messages.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{} {schema}.{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }

    /// Tells whether it makes an event trigger, or says something about one: statements behind it would set it off.
    #[must_use]
    pub fn is_about_event_triggers(&self) -> bool {
        self.kind == "EVENT TRIGGER"
            || ["COMMENT", "SECURITY LABEL"].contains(&self.kind.as_str()) && self.name.starts_with("EVENT TRIGGER ")
    }

    /// Tells whether running it twice, or where it exists, may be taken as done: it is no table and holds no rows.
    #[must_use]
    pub fn is_support(&self) -> bool {
        !matches!(self.kind.as_str(), "TABLE" | "VIEW" | "MATERIALIZED VIEW" | "FOREIGN TABLE")
    }
}

/// All entries of a dump, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SchemaScript {
    /// Entries of both sections.
    pub entries: Vec<Entry>,
}

/// Settings that the dump changes between entries; each entry carries those in force.
const CARRIED: [&str; 2] = ["SET default_tablespace = ", "SET default_table_access_method = "];

impl SchemaScript {
    /// Tells whether an entry attaches something of this script to something that is not in it.
    #[must_use]
    pub fn attaches_elsewhere(&self, id: u32) -> bool {
        let Some(attach) = self.entries.iter().find(|e| e.id == id && e.kind.ends_with(" ATTACH")) else { return false };
        let kinds: &[&str] = if attach.kind == "TABLE ATTACH" { &["TABLE"] } else { &["INDEX", "CONSTRAINT"] };
        let same = |n: &&u32| self.entries.iter().any(|e| e.id == **n && kinds.contains(&e.kind.as_str()));
        attach.needs.iter().filter(same).count() < 2
    }

    /// Reads the annotated SQL of one section.
    pub fn add(&mut self, text: &str, section: Section) {
        // Not `lines()`: a body may have carriage returns of its own.
        let lines: Vec<&str> = text.split('\n').collect();
        let starts = heads(text);
        let mut settings: HashMap<&str, &str> = HashMap::new();
        let preamble = starts.first().copied().unwrap_or(lines.len());
        note_settings(&lines[..preamble], &mut settings);
        for (n, start) in starts.iter().enumerate() {
            let end = starts.get(n + 1).copied().unwrap_or(lines.len());
            let mut body = *start + 1;
            let (mut id, mut needs, mut named) = (0, Vec::new(), None);
            while body < end && lines[body] != "--" {
                let line = lines[body];
                if let Some(rest) = line.strip_prefix("-- TOC entry ") {
                    id = rest.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
                } else if let Some(rest) = line.strip_prefix("-- Dependencies:") {
                    needs = rest.split_whitespace().filter_map(|n| n.parse().ok()).collect();
                } else if let Some(rest) = line.strip_prefix("-- Name: ") {
                    named = parse_name(rest);
                }
                body += 1;
            }
            let Some((name, kind, schema)) = named else { continue };
            let mut last = end;
            while last > body + 1
                && (lines[last - 1].is_empty()
                    || lines[last - 1].starts_with("-- Completed on")
                    || lines[last - 1] == "--"
                    || lines[last - 1].starts_with("-- PostgreSQL database dump complete")
                    || lines[last - 1].starts_with("\\unrestrict ")
                    || CARRIED.iter().any(|c| lines[last - 1].starts_with(c)))
            {
                last -= 1;
            }
            let carried: Vec<&str> = CARRIED.iter().filter_map(|c| settings.get(c).copied()).collect();
            let mut sql = carried.join("\n");
            sql.push('\n');
            sql.push_str(lines[(body + 1).min(last)..last].join("\n").trim_start_matches('\n'));
            note_settings(&lines[last..end], &mut settings);
            self.entries.push(Entry { id, needs, name, kind, schema, section, sql });
        }
    }

    /// Returns the entries that cannot be made because they need a table that is not there, directly or through a view.
    #[must_use]
    pub fn needing(&self, absent: &BTreeSet<QualifiedName>) -> BTreeSet<u32> {
        let mut absent = absent.clone();
        let mut found = BTreeSet::new();
        for entry in &self.entries {
            if !absent.is_empty() && mentions(&entry.sql, &absent) {
                found.insert(entry.id);
                if let Some(schema) = &entry.schema {
                    // A function's name stands with its arguments.
                    let name = entry.name.split('(').next().unwrap_or_default();
                    absent.insert(QualifiedName::new(schema, name));
                }
            }
        }
        found
    }

    /// Returns the entries that a selection of tables needs: the tables, what belongs to them, and what both need.
    /// `tables` are (schema, name) pairs. The second set holds the entries that may exist already.
    #[must_use]
    pub fn select(&self, tables: &BTreeSet<(String, String)>) -> (BTreeSet<u32>, BTreeSet<u32>) {
        let by_id: HashMap<u32, &Entry> = self.entries.iter().map(|e| (e.id, e)).collect();
        let is_relation = |e: &Entry| !e.is_support();
        let mut chosen: BTreeSet<u32> = self
            .entries
            .iter()
            .filter(|e| is_relation(e) && e.schema.as_ref().is_some_and(|s| tables.contains(&(s.clone(), e.name.clone()))))
            .map(|e| e.id)
            .collect();
        // What belongs to the chosen tables: everything that needs one of them and no other table.
        loop {
            let before = chosen.len();
            for entry in self.entries.iter().filter(|e| {
                !is_relation(e) && !matches!(e.kind.as_str(), "FUNCTION" | "PROCEDURE" | "PUBLICATION TABLE" | "EVENT TRIGGER")
            }) {
                // The index of a partition names those of the tables above it: those are here if their tables are.
                let is_index = |e: &Entry| matches!(e.kind.as_str(), "INDEX" | "CONSTRAINT");
                let of_index = is_index(entry) || entry.kind == "INDEX ATTACH";
                let goes_with_table = |n: &u32| of_index && by_id.get(n).is_some_and(|e| is_index(e));
                let relations_ok = entry.needs.iter().all(|n| {
                    chosen.contains(n)
                        || goes_with_table(n)
                        || by_id.get(n).is_none_or(|e| !is_relation(e) && !belongs_to_other_table(e, &by_id, &chosen))
                });
                let attaches =
                    entry.kind.ends_with(" ATTACH") && !entry.needs.iter().all(|n| chosen.contains(n) || goes_with_table(n));
                if relations_ok && !attaches && entry.needs.iter().any(|n| chosen.contains(n)) {
                    chosen.insert(entry.id);
                }
            }
            if chosen.len() == before {
                break;
            }
        }
        let mut support = BTreeSet::new();
        let mut open: Vec<u32> = chosen.iter().copied().collect();
        while let Some(id) = open.pop() {
            for need in by_id.get(&id).into_iter().flat_map(|e| &e.needs) {
                if let Some(entry) = by_id.get(need)
                    && entry.is_support()
                    && entry.section == Section::PreData
                    && !chosen.contains(need)
                    && support.insert(*need)
                {
                    open.push(*need);
                }
            }
        }
        // A schema is needed even where the dump does not say so.
        let schemas: BTreeSet<&str> = chosen.iter().chain(&support).filter_map(|id| by_id.get(id)?.schema.as_deref()).collect();
        support.extend(self.entries.iter().filter(|e| e.kind == "SCHEMA" && schemas.contains(e.name.as_str())).map(|e| e.id));
        (chosen, support)
    }
}

/// An index or constraint of a table that was not chosen (as the target of a foreign key).
fn belongs_to_other_table(entry: &Entry, by_id: &HashMap<u32, &Entry>, chosen: &BTreeSet<u32>) -> bool {
    matches!(entry.kind.as_str(), "CONSTRAINT" | "INDEX")
        && entry.needs.iter().any(|n| by_id.get(n).is_some_and(|e| !e.is_support()) && !chosen.contains(n))
}

/// Returns the lines on which entries begin. A lexer finds them, because the text of a comment or a function may look like
/// the head of an entry.
fn heads(text: &str) -> Vec<usize> {
    let mut found = Vec::new();
    let (mut at, mut line, mut fresh) = (0, 0, true);
    while at < text.len() {
        if fresh && text[at..].starts_with("--\n-- TOC entry ") {
            found.push(line);
        }
        let token = &text[at..at + token_length(&text[at..])];
        line += token.matches('\n').count();
        fresh = token.ends_with('\n');
        at += token.len();
    }
    found
}

fn note_settings<'a>(lines: &[&'a str], settings: &mut HashMap<&'static str, &'a str>) {
    for line in lines {
        if let Some(prefix) = CARRIED.iter().find(|c| line.starts_with(**c)) {
            settings.insert(prefix, line);
        }
    }
}

/// Reads `x; Type: TABLE; Schema: public; Owner: y[; Tablespace: z]`, from behind: a name may hold anything.
fn parse_name(text: &str) -> Option<(String, String, Option<String>)> {
    let (rest, _) = text.rsplit_once("; Owner: ")?;
    let (rest, schema) = rest.rsplit_once("; Schema: ")?;
    let (name, kind) = rest.rsplit_once("; Type: ")?;
    Some((name.to_owned(), kind.to_owned(), (schema != "-").then(|| schema.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "--
-- PostgreSQL database dump
--

-- Started on 2026-11-21 03:30:00

SET statement_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);

SET default_tablespace = '';

--
-- TOC entry 7 (class 2615 OID 100)
-- Name: shop; Type: SCHEMA; Schema: -; Owner: me
--

CREATE SCHEMA shop;


SET default_table_access_method = heap;

--
-- TOC entry 210 (class 1259 OID 101)
-- Dependencies: 7
-- Name: a; Type: odd; Type: TABLE; Schema: shop; Owner: me
--

CREATE TABLE shop.\"a; Type: odd\" (
    id integer
);


-- Completed on 2026-11-21 03:30:01

--
-- PostgreSQL database dump complete
--
";

    #[test]
    fn takes_a_script_apart() {
        let mut script = SchemaScript::default();
        script.add(TEXT, Section::PreData);
        let [schema, table] = script.entries.as_slice() else { panic!("{script:?}") };
        assert_eq!((schema.id, schema.kind.as_str(), schema.name.as_str()), (7, "SCHEMA", "shop"));
        assert_eq!(schema.sql.trim(), "SET default_tablespace = '';\nCREATE SCHEMA shop;");
        assert_eq!((table.id, table.needs.as_slice(), table.name.as_str()), (210, &[7][..], "a; Type: odd"));
        assert!(table.sql.contains("SET default_table_access_method = heap;\nCREATE TABLE"), "{}", table.sql);
        assert!(table.sql.ends_with(");") && !table.sql.contains("Completed"), "{}", table.sql);
        let (chosen, support) = script.select(&BTreeSet::from([("shop".into(), "a; Type: odd".into())]));
        assert_eq!((chosen, support), (BTreeSet::from([210]), BTreeSet::from([7])));
    }
}
