//! SQL that dozo writes: COPY, and the fingerprint that Postgres computes by itself.
//!
//! *Invariant*: everything is generated from typed fields; no text from a manifest is ever executed.

use dozo_model::{
    Algorithm, BlockRange, Column, Dataset, DatasetKind, Fingerprint, PgType, QualifiedName, TableFormat, quote_ident,
};

use crate::error::PgError;
use crate::large::large_object_rows;
use crate::reader::LockedTable;
use crate::session::Session;

/// Tells whether the output function of an array says less than its elements: it leaves out their XML declarations.
fn is_xml_array(wire: &PgType) -> bool {
    match wire {
        PgType::Array(element) | PgType::DomainArray(element) => element.holds_xml(),
        PgType::Raw(inner) | PgType::Printed(inner) => is_xml_array(inner),
        _ => false,
    }
}

/// Writes the text of a value by its type's output function. Not `::text`: somebody may have defined a cast to text that says
/// something else. XML is taken as it is stored.
pub(crate) fn as_text(column: &Column) -> String {
    let name = quote_ident(&column.name);
    if is_xml_array(&column.wire) { format!("{name}::varchar[]::varchar") } else { format!("{name}::varchar") }
}

/// Writes the value that a type's input function reads from a text. `bpchar` stands between, because types such as regclass
/// have a cast from text that reads less than the input function.
pub(crate) fn from_text(name: &str, wire: &PgType, type_name: &str) -> String {
    if is_xml_array(wire) { format!("{name}::varchar[]::{type_name}") } else { format!("{name}::bpchar::{type_name}") }
}

/// Tells whether the output function of a type says the same as its cast to text, which costs more; else somebody may have defined
/// that cast.
fn prints_its_text(wire: &PgType) -> bool {
    match wire {
        PgType::Array(inner) | PgType::Raw(inner) => prints_its_text(inner),
        PgType::Int2
        | PgType::Int4
        | PgType::Int8
        | PgType::Float4
        | PgType::Float8
        | PgType::Numeric(_)
        | PgType::Money { .. }
        | PgType::Text
        | PgType::Varchar
        | PgType::Name
        | PgType::Bytea
        | PgType::Date
        | PgType::Time
        | PgType::Timetz
        | PgType::Timestamp
        | PgType::Timestamptz
        | PgType::Interval
        | PgType::Uuid
        | PgType::Json
        | PgType::Jsonb
        | PgType::Oid
        | PgType::Macaddr
        | PgType::Bit
        | PgType::Varbit => true,
        _ => false,
    }
}

/// Writes what COPY sends of a column.
fn copied(column: &Column) -> String {
    let plain = match &column.wire {
        // Without a length, blanks at the end are a part of the value, although its text leaves them out.
        PgType::Printed(wire) if is_bpchar(wire) => !column.type_name.starts_with("character("),
        PgType::Printed(wire) => prints_its_text(wire),
        wire => !wire.travels_as_text(),
    };
    if plain { quote_ident(&column.name) } else { as_text(column) }
}

/// Tells whether blanks at the end of a value are no part of its text.
pub(crate) fn is_bpchar(wire: &PgType) -> bool {
    match wire {
        PgType::Raw(inner) => is_bpchar(inner),
        wire => *wire == PgType::Bpchar,
    }
}

/// Writes the condition for a range of heap blocks; nothing for the whole table.
pub(crate) fn block_filter(blocks: BlockRange) -> String {
    let mut conditions = Vec::new();
    if blocks.from > 0 {
        conditions.push(format!("ctid >= '({},0)'", blocks.from));
    }
    if let Some(to) = blocks.to {
        conditions.push(format!("ctid < '({to},0)'"));
    }
    if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
}

/// The forms of COPY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyForm {
    /// Binary.
    Binary,
    /// Lines of texts between tabs.
    Text,
    /// Comma-separated values.
    Csv,
}

impl CopyForm {
    /// Returns the form of what the objects of a table hold; Parquet is made from the binary one.
    #[must_use]
    pub fn of(format: TableFormat) -> Self {
        match format {
            TableFormat::Parquet => Self::Binary,
            TableFormat::CsvGz => Self::Csv,
            TableFormat::SqlGz => Self::Text,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Text => "text",
            Self::Csv => "csv",
        }
    }
}

/// Writes the COPY that reads some rows. Forms that hold texts leave out what is not loaded.
pub(crate) fn copy_out(table: &LockedTable, columns: &[Column], blocks: BlockRange, form: CopyForm) -> String {
    let list: Vec<String> = columns.iter().filter(|c| form == CopyForm::Binary || c.loaded()).map(copied).collect();
    let order: Vec<String> = table.order.iter().map(|c| quote_ident(c)).collect();
    let order = if order.is_empty() { String::new() } else { format!(" ORDER BY {}", order.join(", ")) };
    let from = table.rows.rows(blocks).from(&table.name);
    format!("COPY (SELECT {} FROM {from}{order}) TO STDOUT (FORMAT {})", list.join(", "), form.word())
}

/// Writes the query for the row with the longest texts: its key (its place, if it has none) and their bytes. Lengths are read without
/// the values.
pub(crate) fn largest_row(table: &QualifiedName, columns: &[Column], key: &[String]) -> String {
    let length = |c: &Column| match c.wire.unprinted() {
        PgType::Text | PgType::Varchar | PgType::Bpchar | PgType::Json => {
            Some(format!("coalesce(octet_length({}::text), 0)::int8", quote_ident(&c.name)))
        }
        PgType::Bytea => Some(format!("coalesce(octet_length({}), 0)::int8", quote_ident(&c.name))),
        _ => None,
    };
    let lengths: Vec<String> = columns.iter().filter_map(length).collect();
    let bytes = if lengths.is_empty() { "0::int8".to_owned() } else { lengths.join(" + ") };
    let row = if key.is_empty() {
        "'ctid ' || ctid::text".to_owned()
    } else {
        let parts = key.iter().map(|k| format!("{} || ' ' || {}::varchar", dozo_model::quote_literal(k), quote_ident(k)));
        parts.collect::<Vec<_>>().join(" || ', ' || ")
    };
    format!("SELECT {row}, {bytes} FROM ONLY {} ORDER BY 2 DESC LIMIT 1", table.sql())
}

/// Writes the COPY that loads rows into a table, or into the stage that stands in for it.
pub(crate) fn copy_in(table: &str, columns: &[Column], form: CopyForm) -> String {
    format!("COPY {table}{} FROM STDIN (FORMAT {})", column_list(columns), form.word())
}

pub(crate) fn column_list(columns: &[Column]) -> String {
    let names: Vec<String> = loaded_names(columns);
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

fn loaded_names(columns: &[Column]) -> Vec<String> {
    columns.iter().filter(|c| c.loaded()).map(|c| quote_ident(&c.name)).collect()
}

/// A table for the time of a transaction: columns that travel as text are texts in it.
pub(crate) const STAGE: &str = "pg_temp.dozo_stage";

/// Tells whether rows must go through a stage: columns travel as text, or COPY BINARY could refuse the table for a column that
/// it does not even load, because its type has no binary form. Of texts, rows without any column that is loaded must: a COPY
/// without names fills all columns that there are.
pub(crate) fn needs_stage(columns: &[Column], form: CopyForm) -> bool {
    if form != CopyForm::Binary {
        return !columns.iter().any(Column::loaded);
    }
    let own_type = |c: &Column| c.type_name.contains('.');
    columns.iter().any(|c| c.wire.travels_as_text() && (c.loaded() || c.text_only || own_type(c)))
}

/// Writes the statement that makes the stage of a table.
pub(crate) fn create_stage(table: &QualifiedName, columns: &[Column]) -> String {
    let column = |c: &Column| {
        let name = quote_ident(&c.name);
        if c.wire.travels_as_text() { format!("NULL::text AS {name}") } else { name }
    };
    let columns: Vec<String> = columns.iter().filter(|c| c.loaded()).map(column).collect();
    format!("CREATE TEMPORARY TABLE dozo_stage ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA", columns.join(", "), table.sql())
}

/// Writes the statement that moves rows from the stage into the table; `live` are the table's own columns, whose types count.
pub(crate) fn insert_from_stage(table: &QualifiedName, columns: &[Column], live: &[Column]) -> Result<String, PgError> {
    let mut values = Vec::new();
    for column in columns.iter().filter(|c| c.loaded()) {
        let name = quote_ident(&column.name);
        if !column.wire.travels_as_text() {
            values.push(name);
            continue;
        }
        let Some(found) = live.iter().find(|c| c.name == column.name) else {
            return Err(PgError::Wire {
                table: table.to_string(),
                source: crate::codec::WireError(format!("column `{}` is not in the target", column.name)),
            });
        };
        values.push(from_text(&name, &column.wire, &found.type_name));
    }
    let names = loaded_names(columns).join(", ");
    let list = if names.is_empty() { String::new() } else { format!(" ({names}) OVERRIDING SYSTEM VALUE") };
    Ok(format!("INSERT INTO {}{list} SELECT {} FROM {STAGE}", table.sql(), values.join(", ")))
}

/// Returns the *send* function of a type; its result is what COPY BINARY carries.
fn send_function(wire: &PgType) -> &'static str {
    match wire {
        PgType::Bool => "boolsend",
        PgType::Int2 => "int2send",
        PgType::Int4 => "int4send",
        PgType::Int8 => "int8send",
        PgType::Float4 => "float4send",
        PgType::Float8 => "float8send",
        PgType::Numeric(_) => "numeric_send",
        PgType::Money { .. } => "cash_send",
        PgType::Bpchar => "bpcharsend",
        PgType::Name => "namesend",
        PgType::Char => "charsend",
        PgType::Bytea => "byteasend",
        PgType::Date => "date_send",
        PgType::Time => "time_send",
        PgType::Timetz => "timetz_send",
        PgType::Timestamp => "timestamp_send",
        PgType::Timestamptz => "timestamptz_send",
        PgType::Interval => "interval_send",
        PgType::Uuid => "uuid_send",
        PgType::Json => "json_send",
        PgType::Jsonb => "jsonb_send",
        PgType::Oid => "oidsend",
        PgType::Xid => "xidsend",
        PgType::Cid => "cidsend",
        PgType::Inet => "inet_send",
        PgType::Cidr => "cidr_send",
        PgType::Macaddr => "macaddr_send",
        PgType::Macaddr8 => "macaddr8_send",
        PgType::Bit => "bit_send",
        PgType::Varbit => "varbit_send",
        PgType::Enum => "enum_send",
        PgType::Array(_) => "array_send",
        PgType::Raw(inner) => send_function(inner),
        // The function of citext is wherever the extension is; both types are the same bytes.
        PgType::Text | PgType::Citext => "textsend",
        PgType::Varchar
        | PgType::Hstore
        | PgType::Vector
        | PgType::Sparsevec
        | PgType::Geometry { .. }
        | PgType::Composite(_)
        | PgType::DomainArray(_)
        | PgType::Xml
        | PgType::Printed(_)
        | PgType::AsText => "varcharsend",
    }
}

/// Writes the expression for one column's bytes: length and value, `ffffffff` for NULL.
fn column_bytes(column: &Column) -> String {
    let name = quote_ident(&column.name);
    let sent = match &column.wire {
        wire if wire.travels_as_text() => format!("varcharsend({})", as_text(column)),
        // An implicit cast that costs nothing, but is not found with an empty search path.
        PgType::Citext => format!("textsend({name}::text)"),
        wire => format!("{}({name})", send_function(wire)),
    };
    let sent = match column.wire {
        // The server keeps a NULL bitmap that is not needed any more; two equal arrays then differ in this flag.
        PgType::Array(_) if !column.wire.travels_as_text() => format!(
            "(CASE WHEN substr({sent}, 5, 4) <> '\\x00000000' AND NOT EXISTS (SELECT FROM unnest({name}) u(v) WHERE v IS NULL) \
             THEN overlay({sent} PLACING '\\x00000000' FROM 5) ELSE {sent} END)"
        ),
        _ => sent,
    };
    let length = match column.wire.fixed_width() {
        Some(width) => format!("'\\x{width:08x}'::bytea"),
        None => format!("int4send(octet_length({sent}))"),
    };
    format!("coalesce({length} || {sent}, '\\xffffffff')")
}

/// Which rows a statement is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows<'a> {
    /// Those of the table and of everything below it.
    Tree,
    /// Those of the table itself.
    Own,
    /// Those of the table itself in a range of blocks.
    Blocks(BlockRange),
    /// Those of an extension's table that this condition of the extension leaves to users.
    Configuration(&'a str),
    /// Those of large objects.
    LargeObjects,
    /// Those that satisfy a predicate, of the table itself or of everything below it, too.
    Where {
        /// Of the table itself.
        only: bool,
        /// SQL.
        filter: &'a str,
    },
}

impl Rows<'_> {
    fn from(self, table: &QualifiedName) -> String {
        match self {
            Self::Tree => table.sql(),
            Self::Own => format!("ONLY {}", table.sql()),
            Self::Blocks(blocks) => format!("ONLY {}{}", table.sql(), block_filter(blocks)),
            Self::Configuration(condition) => format!("ONLY {} {condition}", table.sql()),
            Self::LargeObjects => large_object_rows(),
            Self::Where { only, filter } => {
                format!("{}{} WHERE {}", if only { "ONLY " } else { "" }, table.sql(), predicate(filter))
            }
        }
    }
}

/// What the rows of a dataset are, in the source or in the target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RowSet {
    /// The table's own rows.
    #[default]
    Own,
    /// Rows of an extension's table that belong to users: the condition as the extension has it in this database.
    Configuration(String),
    /// The bytes of large objects.
    LargeObjects,
}

impl RowSet {
    /// Returns the rows of a range; only a table of its own is cut into ranges.
    pub(crate) fn rows(&self, blocks: BlockRange) -> Rows<'_> {
        match self {
            Self::Own => Rows::Blocks(blocks),
            Self::Configuration(condition) => Rows::Configuration(condition),
            Self::LargeObjects => Rows::LargeObjects,
        }
    }
}

/// Writes a person's predicate so that it stays one: a line break ends a comment that it may end with.
pub(crate) fn predicate(filter: &str) -> String {
    format!("({filter}\n)")
}

/// Writes the expression for a row's bytes.
pub(crate) fn row_bytes(columns: &[Column]) -> String {
    let parts: Vec<String> = columns.iter().filter(|c| c.loaded()).map(column_bytes).collect();
    if parts.is_empty() { "''::bytea".to_owned() } else { parts.join("\n      || ") }
}

/// Writes the statement that computes the fingerprint of a table. `only` leaves out partitions and children.
#[must_use]
pub fn fingerprint_sql(table: &QualifiedName, columns: &[Column], only: bool) -> String {
    fingerprint_of_rows(table, columns, if only { Rows::Own } else { Rows::Tree })
}

/// Writes the statement that computes the fingerprint of a dataset.
#[must_use]
pub fn dataset_fingerprint_sql(dataset: &Dataset) -> String {
    let rows = match (dataset.kind, &dataset.condition) {
        (DatasetKind::LargeObjects, _) => Rows::LargeObjects,
        (DatasetKind::Configuration, Some(condition)) => Rows::Configuration(condition),
        _ => Rows::Own,
    };
    fingerprint_of_rows(&dataset.name, &dataset.columns, rows)
}

pub(crate) fn fingerprint_of_rows(table: &QualifiedName, columns: &[Column], rows: Rows<'_>) -> String {
    let bytes = row_bytes(columns);
    // OFFSET 0 keeps the digest from being computed twice; two's complement turns the sums into 16 hex digits.
    format!(
        "WITH q AS (SELECT md5({bytes}) h\n    FROM {} OFFSET 0),\n\
         s AS (SELECT count(*) n, coalesce(sum(('x' || left(h, 16))::bit(64)::int8), 0) hi, coalesce(sum(('x' || right(h, 16))::bit(64)::int8), 0) lo FROM q),\n\
         m AS (SELECT n, mod(mod(hi, 18446744073709551616) + 18446744073709551616, 18446744073709551616) hi,\n\
         \x20   mod(mod(lo, 18446744073709551616) + 18446744073709551616, 18446744073709551616) lo FROM s)\n\
         SELECT '{}:' || n\n\
         \x20   || ':' || lpad(to_hex((CASE WHEN hi >= 9223372036854775808 THEN hi - 18446744073709551616 ELSE hi END)::int8), 16, '0')\n\
         \x20   || lpad(to_hex((CASE WHEN lo >= 9223372036854775808 THEN lo - 18446744073709551616 ELSE lo END)::int8), 16, '0') AS fingerprint\nFROM m",
        rows.from(table),
        Algorithm::of(columns).id()
    )
}

/// Writes the settings that a hand-run fingerprint needs. `encoding` is that of the database.
#[must_use]
pub fn fingerprint_settings(encoding: &str) -> String {
    format!("SET client_encoding = '{}'; {PINNED_FORMS}", client_encoding(encoding))
}

/// Returns the encoding in which a database of some encoding is talked to.
#[must_use]
pub fn client_encoding(encoding: &str) -> &'static str {
    if encoding == NO_ENCODING { NO_ENCODING } else { "UTF8" }
}

/// A database of this encoding does not know what its bytes mean.
pub const NO_ENCODING: &str = "SQL_ASCII";

/// Where the database has no encoding, texts pass as they are. Only for connections that read or write rows: names and comments must
/// be text.
pub(crate) const RAW_ENCODING: &str = "SELECT set_config('client_encoding', 'SQL_ASCII', false) FROM pg_catalog.pg_settings
    WHERE name = 'server_encoding' AND setting = 'SQL_ASCII';";

/// Settings that decide what a text looks like, and which rows are seen.
pub(crate) const PINNED_FORMS: &str = "SET search_path = ''; SET standard_conforming_strings = on; SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; \
    SET IntervalStyle = 'postgres'; SET extra_float_digits = 1; SET bytea_output = 'hex'; SET lc_monetary = 'C'; \
    SET xmloption = 'content'; SET row_security = off;";

/// Computes the fingerprint of a table in the server.
///
/// # Errors
/// What the server says; a row too large for the statement is an error, never a wrong value.
pub async fn fingerprint(
    session: &Session,
    table: &QualifiedName,
    columns: &[Column],
    only: bool,
) -> Result<Fingerprint, PgError> {
    fingerprint_of(session, table, columns, if only { Rows::Own } else { Rows::Tree }).await
}

/// Computes the fingerprint of some rows of a table in the server.
pub(crate) async fn fingerprint_of(
    session: &Session,
    table: &QualifiedName,
    columns: &[Column],
    rows: Rows<'_>,
) -> Result<Fingerprint, PgError> {
    let what = format!("computing the fingerprint of {table}");
    session.batch(&what, RAW_ENCODING).await?;
    let row = session.query_one(&what, &fingerprint_of_rows(table, columns, rows), &[]).await;
    // Within a transaction that has failed, its end does it.
    let _ = session.batch(&what, "SET client_encoding = 'UTF8'").await;
    let text: String = row?.get(0);
    text.parse().map_err(|e: dozo_model::FingerprintError| PgError::Query {
        what,
        reason: e.to_string(),
        sqlstate: String::new(),
    })
}
