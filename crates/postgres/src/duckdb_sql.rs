//! The SQL of `RESTORE.md`: DuckDB turns each Parquet column, and `_dozo_exact`, back into what Postgres reads.
//!
//! Every value becomes its Postgres text in a CSV where each value is quoted and NULL is the empty, unquoted field: the
//! rules of Postgres' COPY CSV. It owes nothing to dozo's own decoder.

use dozo_model::{Column, PgType, QualifiedName, quote_ident};

use crate::codec::{EXACT_COLUMN, arrow_schema};

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Writes the DuckDB expression for a value's Postgres text.
fn text_of(wire: &PgType, value: &str) -> String {
    match wire {
        PgType::Bool => format!("CASE {value} WHEN true THEN 't' WHEN false THEN 'f' END"),
        PgType::Bytea => format!("'\\x' || lower(hex({value}))"),
        PgType::Timestamp => format!("make_timestamp(epoch_us({value}))::VARCHAR"),
        PgType::Timestamptz => format!("make_timestamp(epoch_us({value}))::VARCHAR || '+00'"),
        PgType::Interval => {
            format!("({value}).months || ' mons ' || ({value}).days || ' days ' || ({value}).micros || ' microseconds'")
        }
        PgType::Array(element) => {
            let inner = text_of(element, "x");
            format!(
                "'{{' || array_to_string([CASE WHEN x IS NULL THEN 'NULL' ELSE '\"' || \
                 replace(replace({inner}, '\\', '\\\\'), '\"', '\\\"') || '\"' END for x in {value}], ',') || '}}'"
            )
        }
        _ => format!("{value}::VARCHAR"),
    }
}

/// Writes the DuckDB statement that turns the files of a table into a CSV file for Postgres. `files` is the list for
/// `read_parquet`, `filter` an optional condition.
#[must_use]
pub fn csv_from_parquet(columns: &[Column], files: &[String], csv: &str, row_groups: Option<&str>) -> String {
    let schema = arrow_schema(columns);
    let exact = schema.fields().last().map_or(EXACT_COLUMN, |f| f.name());
    let loaded: Vec<&Column> = columns.iter().filter(|c| !c.generated).collect();
    let expressions: Vec<String> = loaded
        .iter()
        .map(|c| {
            let name = quote_ident(&c.parquet_name);
            let pointer = format!("/{}", c.parquet_name.replace('~', "~0").replace('/', "~1"));
            let text = text_of(&c.wire, &name);
            format!(
                "CASE WHEN {name} IS NOT NULL THEN {text} WHEN {exact} IS NOT NULL THEN json_extract_string({exact}::JSON, {}) END AS {name}",
                literal(&pointer),
                exact = quote_ident(exact),
            )
        })
        .collect();
    let list = if expressions.is_empty() { "NULL AS nothing".to_owned() } else { expressions.join(",\n       ") };
    let files: Vec<String> = files.iter().map(|f| literal(f)).collect();
    let filter = row_groups.map(|f| format!("\nWHERE {f}")).unwrap_or_default();
    format!(
        "COPY (\nSELECT {list}\nFROM read_parquet([{}]{}){filter}\n) TO {} (FORMAT csv, HEADER false, FORCE_QUOTE *, NULLSTR '');",
        files.join(", "),
        if row_groups.is_some() { ", file_row_number = true" } else { "" },
        literal(csv)
    )
}

/// Writes the psql line that loads that CSV file.
#[must_use]
pub fn copy_csv_into(table: &QualifiedName, columns: &[Column], csv: &str) -> String {
    let names: Vec<String> = columns.iter().filter(|c| !c.generated).map(|c| quote_ident(&c.name)).collect();
    let list = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
    format!("\\copy {}{list} FROM '{csv}' WITH (FORMAT csv, NULL '', ENCODING 'UTF8')", table.sql())
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
