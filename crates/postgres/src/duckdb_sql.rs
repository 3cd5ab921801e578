//! The SQL of `RESTORE.md`: DuckDB turns each Parquet column, and `_dozo_exact`, back into what Postgres reads.
//!
//! Every value becomes its Postgres text in the text format of Postgres' COPY, with its escapes: one line a row, whatever the
//! values hold. It owes nothing to dozo's own decoder.

use std::ops::Range;

use dozo_model::{Column, PgType, QualifiedName, quote_ident};

use crate::codec::{EXACT_COLUMN, arrow_schema, names_without_case};

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Writes a text between quotes, with backslashes before what would end it.
fn quoted(text: &str) -> String {
    format!("'\"' || replace(replace({text}, '\\', '\\\\'), '\"', '\\\"') || '\"'")
}

/// Writes the DuckDB expression for a value's Postgres text. `depth` keeps the names of nested lists' elements apart.
fn text_of(wire: &PgType, value: &str, depth: usize) -> String {
    let x = format!("x{depth}");
    match wire {
        PgType::Bool => format!("CASE {value} WHEN true THEN 't' WHEN false THEN 'f' END"),
        PgType::Bytea => format!("'\\x' || lower(hex({value}))"),
        PgType::Timestamp => format!("make_timestamp(epoch_us({value}))::VARCHAR"),
        PgType::Timestamptz => format!("make_timestamp(epoch_us({value}))::VARCHAR || '+00'"),
        PgType::Interval => {
            format!("({value}).months || ' mons ' || ({value}).days || ' days ' || ({value}).micros || ' microseconds'")
        }
        PgType::Array(element) | PgType::DomainArray(element) => {
            let inner = quoted(&text_of(element, &x, depth + 1));
            format!(
                "'{{' || array_to_string([CASE WHEN {x} IS NULL THEN 'NULL' ELSE {inner} END for {x} in {value}], ',') || '}}'"
            )
        }
        PgType::Composite(fields) => {
            let fields = names_without_case(fields).into_iter().zip(fields).map(|(name, field)| {
                let member = format!("({value}).{}", quote_ident(&name));
                format!("CASE WHEN {member} IS NULL THEN '' ELSE {} END", quoted(&text_of(&field.wire, &member, depth)))
            });
            format!("'(' || {} || ')'", fields.collect::<Vec<_>>().join(" || ',' || "))
        }
        PgType::Hstore => {
            let (key, member) = (quoted(&format!("{x}.key")), quoted(&format!("{x}.value")));
            format!(
                "array_to_string([{key} || '=>' || CASE WHEN {x}.value IS NULL THEN 'NULL' ELSE {member} END for {x} in map_entries({value})], ', ')"
            )
        }
        PgType::Vector => format!("'[' || array_to_string([{x}::VARCHAR for {x} in {value}], ',') || ']'"),
        PgType::Sparsevec => format!(
            "'{{' || array_to_string([({value}).indices[{x}] || ':' || ({value}).values[{x}] for {x} in range(1, len(({value}).indices) + 1)], ',') || '}}/' || ({value}).dimensions"
        ),
        PgType::Geometry { srid: 0 } => format!("hex({value})"),
        PgType::Geometry { srid } => {
            // The reference stands behind the type, whose highest byte says so.
            let reference: String = srid.to_le_bytes().iter().map(|b| format!("{b:02X}")).collect();
            format!("left(hex({value}), 8) || '20{reference}' || substr(hex({value}), 11)")
        }
        _ => format!("{value}::VARCHAR"),
    }
}

/// Writes the DuckDB statement that turns a file of a table into lines for Postgres' COPY. `rows` is the range of rows within
/// the file, where it holds several partitions.
#[must_use]
pub fn text_from_parquet(columns: &[Column], file: &str, out: &str, rows: Option<Range<u64>>) -> String {
    let schema = arrow_schema(columns);
    let exact = quote_ident(schema.fields().last().map_or(EXACT_COLUMN, |f| f.name()));
    let expressions: Vec<String> = columns
        .iter()
        .filter(|c| c.loaded())
        .map(|c| {
            let name = quote_ident(&c.parquet_name);
            let pointer = literal(&format!("/{}", c.parquet_name.replace('~', "~0").replace('/', "~1")));
            if let PgType::Raw(_) = c.wire {
                // Bytes that are no text: each as the escape that COPY reads.
                return format!("coalesce(regexp_replace(hex({name}), '(..)', '\\x\\1', 'g'), '\\N')");
            }
            let text = text_of(&c.wire, &name, 0);
            let value = format!(
                "CASE WHEN {name} IS NOT NULL THEN {text} WHEN {exact} IS NOT NULL THEN json_extract_string({exact}::JSON, {pointer}) END"
            );
            format!(
                "coalesce(replace(replace(replace(replace({value}, '\\', '\\\\'), chr(10), '\\n'), chr(13), '\\r'), chr(9), '\\t'), '\\N')"
            )
        })
        .collect();
    let filter = rows.map_or_else(String::new, |r| {
        format!(", file_row_number = true)\nWHERE file_row_number >= {} AND file_row_number < {}", r.start, r.end)
    });
    let end = if filter.is_empty() { ")" } else { "" };
    format!(
        "COPY (\nSELECT concat_ws(chr(9),\n       {}) AS line\nFROM read_parquet({}{filter}{end}\n) TO {} (FORMAT csv, HEADER false, QUOTE '', ESCAPE '', DELIMITER E'\\x01');",
        expressions.join(",\n       "),
        literal(file),
        literal(out)
    )
}

/// Writes the statement that loads these lines; the lines follow it, then `\\.`.
#[must_use]
pub fn copy_text_into(table: &QualifiedName, columns: &[Column]) -> String {
    let names: Vec<String> = columns.iter().filter(|c| c.loaded()).map(|c| quote_ident(&c.name)).collect();
    format!("COPY {} ({}) FROM STDIN;", table.sql(), names.join(", "))
}

/// Names the columns whose values may have bits that no text carries: the payload of a NaN.
#[must_use]
pub fn exact_only_through_dozo(columns: &[Column]) -> Vec<&str> {
    fn float(wire: &PgType) -> bool {
        match wire {
            PgType::Float4 | PgType::Float8 => true,
            PgType::Array(element) => float(element),
            _ => false,
        }
    }
    columns.iter().filter(|c| float(&c.wire)).map(|c| c.name.as_str()).collect()
}
