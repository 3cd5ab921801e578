//! What stands around the rows in an object that holds texts, and how it is taken off again.
//!
//! `csv.gz`: the object with the first rows of a table begins with a line of names, so that all objects of a table, one behind the
//! other, are one CSV file. `sql.gz`: settings and a COPY statement before the rows, `\.` behind them, so that `psql` runs each
//! object by itself or all of them as one script. *Invariant*: everything is written from typed fields; a name may hold anything.

use dozo_model::{Column, DatasetKind, QualifiedName, TableFormat};

use crate::codec::WireError;
use crate::large::large_objects_from_stage;
use crate::sql::{column_list, fingerprint_settings};

/// What stands before and behind the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Before.
    pub head: String,
    /// Behind.
    pub tail: String,
}

/// Where large objects stand on their way into a database.
const LARGE_STAGE: &str = "pg_temp.dozo_large";

/// Tells whether values are looked up among the relations of the database: then these must be there first.
#[must_use]
pub fn names_relations(columns: &[Column]) -> bool {
    columns.iter().any(|c| c.loaded() && c.type_name.trim_end_matches("[]") == "regclass")
}

impl Frame {
    /// Makes what stands around rows of a table. `first`: they are the first of it; `encoding` is that of the database.
    #[must_use]
    pub fn new(
        table: &QualifiedName,
        columns: &[Column],
        kind: DatasetKind,
        format: TableFormat,
        first: bool,
        encoding: &str,
    ) -> Self {
        match format {
            TableFormat::Parquet => Self { head: String::new(), tail: String::new() },
            TableFormat::CsvGz => {
                let names: Vec<String> = columns.iter().filter(|c| c.loaded()).map(|c| csv_name(&c.name)).collect();
                Self { head: if first { format!("{}\n", names.join(",")) } else { String::new() }, tail: String::new() }
            }
            TableFormat::SqlGz => {
                let settings = fingerprint_settings(encoding);
                if kind == DatasetKind::LargeObjects {
                    let stage = "CREATE TEMPORARY TABLE dozo_large (loid oid, at bigint, data bytea) ON COMMIT DROP";
                    let list = column_list(columns);
                    return Self {
                        head: format!("{settings}\nBEGIN;\n{stage};\nCOPY {LARGE_STAGE}{list} FROM stdin;\n"),
                        tail: format!("\\.\n\n{};\nCOMMIT;\n\n", large_objects_from_stage(LARGE_STAGE)),
                    };
                }
                if !columns.iter().any(Column::loaded) {
                    // A COPY without names would fill all columns that there are.
                    let stage = "CREATE TEMPORARY TABLE dozo_rows () ON COMMIT DROP";
                    return Self {
                        head: format!("{settings}\nBEGIN;\n{stage};\nCOPY pg_temp.dozo_rows FROM stdin;\n"),
                        tail: format!("\\.\n\nINSERT INTO {} SELECT FROM pg_temp.dozo_rows;\nCOMMIT;\n\n", table.sql()),
                    };
                }
                // Keys and triggers are there already when rows are that name relations.
                let late = names_relations(columns);
                Self {
                    head: format!(
                        "{settings}\n{}COPY {}{} FROM stdin;\n",
                        if late { "SET session_replication_role = replica;\n" } else { "" },
                        table.sql(),
                        column_list(columns)
                    ),
                    tail: format!("\\.\n\n{}", if late { "RESET session_replication_role;\n\n" } else { "" }),
                }
            }
        }
    }
}

/// Writes a name as COPY writes it into the header of a CSV file.
fn csv_name(name: &str) -> String {
    // The last would be the end of the rows.
    if name.contains([',', '"', '\n', '\r']) || name == "\\." {
        format!("\"{}\"", name.replace('"', "\"\""))
    } else {
        name.to_owned()
    }
}

/// Returns the statement that loads a CSV file whose first line holds the names.
#[must_use]
pub fn copy_csv_into(table: &QualifiedName, columns: &[Column]) -> String {
    format!("COPY {}{} FROM STDIN (FORMAT csv, HEADER);", table.sql(), column_list(columns))
}

/// The longest head that is looked for: 1,600 names of 63 bytes, quoted, and the settings are far below.
const HEAD: usize = 4 << 20;
/// The end of the rows, with that of the last one.
const END: &[u8] = b"\n\\.\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Head,
    Rows,
    Tail,
}

/// Takes off what stands around the rows.
#[derive(Debug)]
pub struct Unframed {
    format: TableFormat,
    place: Place,
    /// Bytes that are not placed yet: the head, or what may be the front of the end.
    held: Vec<u8>,
    /// Of the head, where the search goes on, and whether that is between quotes.
    searched: usize,
    quoted: bool,
}

impl Unframed {
    /// Begins with the first byte of an object; `first`: it holds the first rows of its table.
    #[must_use]
    pub fn new(format: TableFormat, first: bool) -> Self {
        let headless = format == TableFormat::CsvGz && !first;
        Self { format, place: if headless { Place::Rows } else { Place::Head }, held: Vec::new(), searched: 0, quoted: false }
    }

    /// Adds bytes, cut anywhere; `rows` is given those that are rows.
    ///
    /// # Errors
    /// When there is no end to the head; what `rows` says.
    pub fn add<E: From<WireError>>(&mut self, bytes: &[u8], rows: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        match self.place {
            Place::Head => {
                self.held.extend_from_slice(bytes);
                let Some(end) = self.head_end() else {
                    return if self.held.len() > HEAD {
                        Err(WireError("what stands before the rows does not end".into()).into())
                    } else {
                        Ok(())
                    };
                };
                let rest = self.held.split_off(end);
                self.place = Place::Rows;
                // Rows end behind a line break, which may be that of the head.
                self.held = if self.format == TableFormat::SqlGz { vec![b'\n'] } else { Vec::new() };
                self.searched = self.held.len();
                self.add(&rest, rows)
            }
            Place::Rows if self.format == TableFormat::SqlGz => {
                self.held.extend_from_slice(bytes);
                let found = memchr::memmem::find(&self.held, END);
                let upto = found.map_or(self.held.len().saturating_sub(END.len() - 1), |at| at + 1);
                // The line break of the head is no row.
                let from = self.searched.min(upto);
                if upto > from {
                    rows(&self.held[from..upto])?;
                }
                match found {
                    Some(_) => {
                        self.held.clear();
                        self.place = Place::Tail;
                    }
                    None => {
                        self.held.drain(..upto);
                        self.searched = self.searched.saturating_sub(upto);
                    }
                }
                Ok(())
            }
            Place::Rows => rows(bytes),
            Place::Tail => Ok(()),
        }
    }

    /// Returns where the head ends: behind the names, or behind `FROM stdin;` outside of quotes.
    fn head_end(&mut self) -> Option<usize> {
        for at in memchr::memchr2_iter(b'\n', b'"', &self.held[self.searched..]).collect::<Vec<_>>() {
            let at = self.searched + at;
            if self.held[at] == b'"' {
                self.quoted = !self.quoted;
            } else if !self.quoted && (self.format == TableFormat::CsvGz || self.held[..at].ends_with(b" FROM stdin;")) {
                return Some(at + 1);
            }
        }
        self.searched = self.held.len();
        None
    }

    /// Makes sure that the object was whole.
    ///
    /// # Errors
    /// When its head or its end is missing.
    pub fn end(&self) -> Result<(), WireError> {
        match (self.format, self.place) {
            (_, Place::Head) => Err(WireError("what stands before the rows does not end".into())),
            (TableFormat::SqlGz, Place::Rows) => Err(WireError("the rows have no end".into())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use dozo_model::PgType;
    use proptest::prelude::*;

    use super::*;
    use crate::printed::tests::column;

    fn columns(names: &[&str]) -> Vec<Column> {
        names.iter().map(|name| column(name, &PgType::Text)).collect()
    }

    const NAMES: [&str; 4] = ["id", "a \"b\"\n FROM stdin;\n", "x,y", "注文"];

    proptest! {
        /// Wherever the bytes are cut, and whatever the names are, the rows are the same.
        #[test]
        fn rows_come_out(rows in prop::collection::vec("[a\\\\.\\tN]{0,4}".prop_filter("no row is an end", |r| r != "\\."), 0..8), cuts in prop::collection::vec(1usize..7, 1..20)) {
            for (format, first) in [(TableFormat::SqlGz, true), (TableFormat::CsvGz, true), (TableFormat::CsvGz, false)] {
                for kind in [DatasetKind::Table, DatasetKind::LargeObjects] {
                    let table = QualifiedName::new("public", "t \" FROM stdin;\nx");
                    let frame = Frame::new(&table, &columns(&NAMES), kind, format, first, "UTF8");
                    let body: String = rows.iter().map(|r| format!("{r}\n")).collect();
                    let all = format!("{}{body}{}", frame.head, frame.tail).into_bytes();
                    let mut unframed = Unframed::new(format, first);
                    let mut found = Vec::new();
                    let mut rest = all.as_slice();
                    for cut in cuts.iter().cycle() {
                        if rest.is_empty() { break }
                        let (now, later) = rest.split_at((*cut).min(rest.len()));
                        unframed.add::<WireError>(now, &mut |bytes| { found.extend_from_slice(bytes); Ok(()) }).unwrap();
                        rest = later;
                    }
                    unframed.end().unwrap();
                    prop_assert_eq!(String::from_utf8(found).unwrap(), body.clone(), "{:?} {:?}", format, kind);
                }
            }
        }
    }

    #[test]
    fn an_object_that_was_cut_short_is_an_error() {
        let frame =
            Frame::new(&QualifiedName::new("s", "t"), &columns(&["a"]), DatasetKind::Table, TableFormat::SqlGz, true, "UTF8");
        let all = format!("{}1\n{}", frame.head, frame.tail);
        let end = all.find("\\.").unwrap();
        for cut in [0, 5, frame.head.len() - 1, frame.head.len(), end, end + 1] {
            let mut unframed = Unframed::new(TableFormat::SqlGz, true);
            unframed.add::<WireError>(&all.as_bytes()[..cut], &mut |_| Ok(())).unwrap();
            assert!(unframed.end().is_err(), "{cut}");
        }
    }
}
