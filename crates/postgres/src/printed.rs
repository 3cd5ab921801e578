//! Rows in the text and CSV forms of COPY, taken apart for their fingerprint `t1`.
//!
//! Place in the flow: what the server sends goes into an object as it is, and through here for its digest; what is read back from
//! an object goes through here again. *Format*: `CopyAttributeOutText` and `CopyAttributeOutCSV` in
//! `src/backend/commands/copyto.c`: tabs, `\N` and backslash escapes; commas, quotes doubled within quotes, an unquoted nothing for
//! NULL. *Invariant*: only what those functions write is accepted, and a row is a row wherever its bytes were cut.
//! *Memory*: the rows since the last [`PrintedRows::clear`], and one that is not complete.

use dozo_model::{Column, PgType, RowDigester};

use crate::codec::WireError;
use crate::sql::{CopyForm, is_bpchar};

type Result<T> = std::result::Result<T, WireError>;

/// The time of the least interval: `interval_out` prints its 2⁶³ microseconds, `interval_in` counts hours, minutes and seconds up
/// as positive numbers and finds one too many.
pub const LEAST_INTERVAL: &str = "-2562047788:00:54.775808";

/// Takes rows apart: each becomes its columns' lengths and texts, as a row digest is computed over.
#[derive(Debug)]
pub struct PrintedRows {
    csv: bool,
    /// For each column, whether blanks at its end are left out: its text does not have them.
    trims: Vec<bool>,
    /// For each column, whether it may hold a text that no server reads.
    doubtful: Vec<bool>,
    /// The first column that held one.
    unreadable: Option<usize>,
    tuples: Vec<u8>,
    ends: Vec<usize>,
    /// The front of a row whose end was not seen.
    half: Vec<u8>,
    /// Whether that front ends between quotes.
    quoted: bool,
}

impl PrintedRows {
    /// Makes a reader for a table's columns.
    #[must_use]
    pub fn new(columns: &[Column], form: CopyForm) -> Self {
        Self {
            csv: form == CopyForm::Csv,
            doubtful: columns.iter().filter(|c| c.loaded()).map(|c| holds_interval(c.wire.unprinted())).collect(),
            unreadable: None,
            trims: columns.iter().filter(|c| c.loaded()).map(|c| is_bpchar(c.wire.unprinted())).collect(),
            tuples: Vec::new(),
            ends: Vec::new(),
            half: Vec::new(),
            quoted: false,
        }
    }

    /// Adds bytes, cut anywhere.
    ///
    /// # Errors
    /// When they are not what COPY writes for these columns.
    pub fn add(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while let Some(end) = self.row_end(rest) {
            if self.half.is_empty() {
                self.row(&rest[..end])?;
            } else {
                self.half.extend_from_slice(&rest[..end]);
                let row = std::mem::take(&mut self.half);
                self.row(&row)?;
                self.half = row;
                self.half.clear();
            }
            rest = &rest[end + 1..];
        }
        self.half.extend_from_slice(rest);
        Ok(())
    }

    /// Returns where the first row ends in what follows on the half row.
    fn row_end(&mut self, bytes: &[u8]) -> Option<usize> {
        if !self.csv {
            return memchr::memchr(b'\n', bytes);
        }
        for at in memchr::memchr2_iter(b'\n', b'"', bytes) {
            match bytes[at] {
                b'"' => self.quoted = !self.quoted,
                _ if !self.quoted => return Some(at),
                _ => {}
            }
        }
        None
    }

    fn row(&mut self, row: &[u8]) -> Result<()> {
        if self.trims.is_empty() {
            if !row.is_empty() {
                return Err(WireError("a row with columns, of a table without".into()));
            }
            self.ends.push(self.tuples.len());
            return Ok(());
        }
        let separator = if self.csv { b',' } else { b'\t' };
        let (mut at, columns) = (0, self.trims.len());
        for column in 0..columns {
            let start = self.tuples.len();
            self.tuples.extend_from_slice(&[0; 4]);
            let (used, null) =
                if self.csv { csv_field(&row[at..], &mut self.tuples)? } else { text_field(&row[at..], &mut self.tuples)? };
            at += used;
            if self.trims[column] {
                while self.tuples.len() > start + 4 && self.tuples.last() == Some(&b' ') {
                    self.tuples.pop();
                }
            }
            if self.doubtful[column] && memchr::memmem::find(&self.tuples[start + 4..], LEAST_INTERVAL.as_bytes()).is_some() {
                self.unreadable.get_or_insert(column);
            }
            let length = i32::try_from(self.tuples.len() - start - 4).map_err(|_| WireError("a value above 2 GB".into()))?;
            self.tuples[start..start + 4].copy_from_slice(&if null { -1 } else { length }.to_be_bytes());
            let last = column + 1 == columns;
            match row.get(at) {
                None if last => {}
                Some(byte) if !last && *byte == separator => at += 1,
                None => return Err(WireError(format!("a row of {} columns instead of {columns}", column + 1))),
                Some(_) => return Err(WireError(format!("more than {columns} columns, or bytes behind the end of a value"))),
            }
        }
        self.ends.push(self.tuples.len());
        Ok(())
    }

    /// Returns the first column, among those that are loaded, with a value that prints as [`LEAST_INTERVAL`].
    #[must_use]
    pub fn unreadable(&self) -> Option<usize> {
        self.unreadable
    }

    /// Returns how many rows there are since the last [`PrintedRows::clear`].
    #[must_use]
    pub fn rows(&self) -> usize {
        self.ends.len()
    }

    /// Returns how many bytes they take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.tuples.len()
    }

    /// Returns each row's bytes: lengths and texts.
    pub fn tuples(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.tuples[start..*end])
    }

    /// Forgets the complete rows, keeps the memory.
    pub fn clear(&mut self) {
        self.tuples.clear();
        self.ends.clear();
    }

    /// Digests the complete rows and forgets them.
    pub fn digest(&mut self, digester: &mut RowDigester) {
        digester.add(&self.tuples().collect::<Vec<_>>());
        self.clear();
    }

    /// Makes sure that no row was begun and not ended.
    ///
    /// # Errors
    /// When one was.
    pub fn end(&self) -> Result<()> {
        if self.half.is_empty() && !self.quoted { Ok(()) } else { Err(WireError("the rows end too early".into())) }
    }
}

/// Tells whether a value is an interval or may have one in it, as ranges have.
fn holds_interval(wire: &PgType) -> bool {
    match wire {
        PgType::Interval | PgType::AsText => true,
        PgType::Array(inner) | PgType::DomainArray(inner) | PgType::Raw(inner) => holds_interval(inner),
        PgType::Composite(fields) => fields.iter().any(|f| holds_interval(&f.wire)),
        _ => false,
    }
}

/// Reads a value of the text form. Returns the bytes that it took, and whether it is NULL.
fn text_field(row: &[u8], out: &mut Vec<u8>) -> Result<(usize, bool)> {
    if row.starts_with(b"\\N") && matches!(row.get(2), None | Some(b'\t')) {
        return Ok((2, true));
    }
    let mut at = 0;
    loop {
        let rest = &row[at..];
        let run = rest.iter().position(|b| matches!(b, b'\t' | b'\\')).unwrap_or(rest.len());
        out.extend_from_slice(&rest[..run]);
        at += run;
        if row.get(at) != Some(&b'\\') {
            return Ok((at, false));
        }
        out.push(match row.get(at + 1) {
            Some(b'b') => 8,
            Some(b't') => b'\t',
            Some(b'n') => b'\n',
            Some(b'v') => 11,
            Some(b'f') => 12,
            Some(b'r') => b'\r',
            Some(b'\\') => b'\\',
            other => return Err(WireError(format!("an escape that COPY does not write: {other:?}"))),
        });
        at += 2;
    }
}

/// Reads a value of the CSV form. Returns the bytes that it took, and whether it is NULL.
fn csv_field(row: &[u8], out: &mut Vec<u8>) -> Result<(usize, bool)> {
    if row.first() != Some(&b'"') {
        let run = memchr::memchr(b',', row).unwrap_or(row.len());
        if memchr::memchr(b'"', &row[..run]).is_some() {
            return Err(WireError("a quote within a value without quotes".into()));
        }
        out.extend_from_slice(&row[..run]);
        return Ok((run, run == 0));
    }
    let mut at = 1;
    loop {
        let run = memchr::memchr(b'"', &row[at..]).ok_or_else(|| WireError("a quote without its end".into()))?;
        out.extend_from_slice(&row[at..at + run]);
        at += run + 1;
        if row.get(at) != Some(&b'"') {
            return Ok((at, false));
        }
        out.push(b'"');
        at += 1;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use dozo_model::{Algorithm, Profile};
    use proptest::prelude::*;

    use super::*;

    /// A column that is printed.
    pub(crate) fn column(name: &str, wire: &PgType) -> Column {
        let column = Column {
            name: name.to_owned(),
            parquet_name: name.to_owned(),
            type_name: "text".into(),
            wire: wire.clone(),
            parquet: String::new(),
            attnum: 1,
            not_null: false,
            generated: false,
            text_only: false,
            profile: Profile::default(),
            labels: vec![],
        };
        column.printed()
    }

    fn columns(wires: &[PgType]) -> Vec<Column> {
        wires.iter().enumerate().map(|(i, wire)| column(&format!("c{i}"), wire)).collect()
    }

    /// `CopyAttributeOutText`, by the letter.
    fn as_text(row: &[Option<String>]) -> Vec<u8> {
        let field = |f: &Option<String>| match f {
            None => "\\N".to_owned(),
            Some(text) => {
                let mut out = String::new();
                for c in text.chars() {
                    match c {
                        '\u{8}' => out.push_str("\\b"),
                        '\u{c}' => out.push_str("\\f"),
                        '\n' => out.push_str("\\n"),
                        '\r' => out.push_str("\\r"),
                        '\t' => out.push_str("\\t"),
                        '\u{b}' => out.push_str("\\v"),
                        '\\' => out.push_str("\\\\"),
                        c => out.push(c),
                    }
                }
                out
            }
        };
        format!("{}\n", row.iter().map(field).collect::<Vec<_>>().join("\t")).into_bytes()
    }

    /// `CopyAttributeOutCSV`, by the letter.
    fn as_csv(row: &[Option<String>]) -> Vec<u8> {
        let field = |f: &Option<String>| match f {
            None => String::new(),
            Some(t) if t.is_empty() || t.contains([',', '"', '\n', '\r']) || row.len() == 1 && t == "\\." => {
                format!("\"{}\"", t.replace('"', "\"\""))
            }
            Some(t) => t.clone(),
        };
        format!("{}\n", row.iter().map(field).collect::<Vec<_>>().join(",")).into_bytes()
    }

    fn tuple(row: &[Option<String>]) -> Vec<u8> {
        let field = |f: &Option<String>| match f {
            None => vec![0xff; 4],
            Some(t) => [&i32::try_from(t.len()).unwrap().to_be_bytes()[..], t.as_bytes()].concat(),
        };
        row.iter().flat_map(field).collect()
    }

    fn value() -> impl Strategy<Value = Option<String>> {
        prop_oneof![
            Just(None),
            "[a-c,\"\\\\\\t\\n\\r\\u{8}\\u{b}\\u{c}Nbé.]{0,8}".prop_map(Some),
            prop::sample::select(vec!["\\N", "\\.", "", "\\", "\"", "\"\"", "N", " "]).prop_map(|t| Some(t.to_owned())),
        ]
    }

    proptest! {
        /// Whatever the values hold and wherever the bytes are cut, the rows are the same.
        #[test]
        fn rows_come_back(
            (width, rows) in (0usize..4).prop_flat_map(|w| (Just(w), prop::collection::vec(prop::collection::vec(value(), w), 0..12))),
            cuts in prop::collection::vec(1usize..9, 1..20),
        ) {
            for form in [CopyForm::Text, CopyForm::Csv] {
                let write = if form == CopyForm::Text { as_text } else { as_csv };
                let bytes: Vec<u8> = rows.iter().flat_map(|r| write(r)).collect();
                let mut printed = PrintedRows::new(&columns(&vec![PgType::Text; width]), form);
                let mut rest = bytes.as_slice();
                for cut in cuts.iter().cycle() {
                    if rest.is_empty() { break }
                    let (now, later) = rest.split_at((*cut).min(rest.len()));
                    printed.add(now).unwrap();
                    rest = later;
                }
                printed.end().unwrap();
                let expected: Vec<Vec<u8>> = rows.iter().map(|r| tuple(r)).collect();
                prop_assert_eq!(printed.tuples().map(<[u8]>::to_vec).collect::<Vec<_>>(), expected);
                if !bytes.is_empty() && width > 0 {
                    let mut short = PrintedRows::new(&columns(&vec![PgType::Text; width]), form);
                    let fine = short.add(&bytes[..bytes.len() - 1]).is_ok() && short.end().is_ok();
                    // A row that is a NULL alone is an empty line: without it, there is one row less.
                    prop_assert!(!fine || matches!(bytes[..bytes.len() - 1].last(), None | Some(b'\n')), "{:?}", form);
                }
            }
        }

        /// No bytes make it panic.
        #[test]
        fn anything_is_rows_or_an_error(bytes in prop::collection::vec(prop::sample::select(b"a,\"\\\t\n\rN.".to_vec()), 0..60), width in 0usize..4) {
            for form in [CopyForm::Text, CopyForm::Csv] {
                let mut printed = PrintedRows::new(&columns(&vec![PgType::Text; width]), form);
                let _ = printed.add(&bytes).and_then(|()| printed.end());
            }
        }
    }

    #[test]
    fn blanks_at_the_end_of_a_char_are_no_part_of_its_text() {
        let raw = PgType::Raw(Box::new(PgType::Bpchar));
        let mut printed = PrintedRows::new(&columns(&[PgType::Bpchar, PgType::Text, raw]), CopyForm::Text);
        printed.add(b"a  \tb \t  \n").unwrap();
        let expected = tuple(&[Some("a".into()), Some("b ".into()), Some(String::new())]);
        assert_eq!(printed.tuples().collect::<Vec<_>>(), [expected.as_slice()]);
    }

    #[test]
    fn what_copy_does_not_write_is_refused() {
        for (bytes, form) in [
            (&b"a\tb\tc\n"[..], CopyForm::Text),
            (b"a\n", CopyForm::Text),
            (b"a\\x\tb\n", CopyForm::Text),
            (b"a\\", CopyForm::Text),
            (b"a,b,c\n", CopyForm::Csv),
            (b"\"a\"b,c\n", CopyForm::Csv),
            (b"\"a,b\n", CopyForm::Csv),
            (b"a\"b,c\"\n", CopyForm::Csv),
        ] {
            let mut printed = PrintedRows::new(&columns(&[PgType::Text, PgType::Text]), form);
            assert!(printed.add(bytes).and_then(|()| printed.end()).is_err(), "{bytes:?}");
        }
        assert!(PrintedRows::new(&[], CopyForm::Text).add(b"x\n").is_err());
    }

    /// The digest of one row is the MD5 of its lengths and texts.
    #[test]
    fn the_fingerprint_says_what_it_is_over() {
        let mut printed = PrintedRows::new(&columns(&[PgType::Int4, PgType::Text]), CopyForm::Csv);
        printed.add(b"1,a\n").unwrap();
        let mut digester = RowDigester::new(Algorithm::T1);
        printed.digest(&mut digester);
        let mut expected = RowDigester::new(Algorithm::T1);
        expected.add(&[b"\0\0\0\x011\0\0\0\x01a"]);
        assert_eq!(printed.rows(), 0);
        assert_eq!(digester.take(), expected.take());
    }
}
