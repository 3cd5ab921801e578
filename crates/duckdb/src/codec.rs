//! How values travel: each type of DuckDB as SQL that makes a portable form of it, and as SQL that makes the value again.
//!
//! The portable form is what other engines read in Parquet: no unsigned integers, no nanoseconds, no types of DuckDB alone. DuckDB's
//! own Parquet writer loses HUGEINT (as DOUBLE), microseconds of INTERVAL, offsets of TIME WITH TIME ZONE, and the type of BIT; here
//! `decode(encode(x))` is `x` for every type, or the column is refused. *Exact column*: infinite dates and timestamps are NULL in
//! their column and stand, as text, in the JSON object of `_dozo_exact`; within lists, structs and maps they stay what DuckDB stores.
//!
//! The *text* of a value is what its fingerprint is made of (`DuckType::text`).

use crate::sql::literal;
use crate::types::{DuckType, Plain};
use dozo_model::quote_ident;

/// Name of the column that holds what a readable column cannot.
pub(crate) const EXACT: &str = "_dozo_exact";

impl DuckType {
    /// Returns the portable form of the expression `x`, for a value within another (`depth` counts lambdas).
    fn portable(&self, x: &str, depth: usize) -> String {
        if self.is_portable() {
            return x.to_owned();
        }
        let or_null = |made: String| format!("CASE WHEN {x} IS NULL THEN NULL ELSE {made} END");
        match self {
            Self::Plain(plain) => match plain {
                Plain::UTinyInt => format!("CAST({x} AS SMALLINT)"),
                Plain::USmallInt => format!("CAST({x} AS INTEGER)"),
                Plain::UInteger => format!("CAST({x} AS BIGINT)"),
                Plain::UBigInt => format!("CAST({x} AS DECIMAL(20,0))"),
                Plain::TimestampS | Plain::TimestampMs => format!("CAST({x} AS TIMESTAMP)"),
                Plain::Interval => or_null(format!(
                    "struct_pack(months := CAST(datepart('year', {x}) * 12 + datepart('month', {x}) AS INTEGER), \
                     days := CAST(datepart('day', {x}) AS INTEGER), \
                     micros := datepart('hour', {x}) * 3600000000 + datepart('minute', {x}) * 60000000 + datepart('microseconds', {x}))"
                )),
                Plain::Geometry => format!("CAST(ST_AsWKB({x}) AS BLOB)"),
                _ => format!("CAST({x} AS VARCHAR)"),
            },
            Self::Decimal(..) => x.to_owned(),
            Self::Enum(_) | Self::Other(_) => format!("CAST({x} AS VARCHAR)"),
            Self::List(inner) => {
                let element = format!("x{depth}");
                format!("list_transform({x}, lambda {element}: {})", inner.portable(&element, depth + 1))
            }
            Self::Array(inner, _) => {
                let list = format!("CAST({x} AS {inner}[])");
                Self::List(inner.clone()).portable(&list, depth)
            }
            Self::Struct(members) => {
                let fields = members.iter().map(|(name, t)| {
                    let field = format!("struct_extract({x}, {})", literal(name));
                    format!("{} := {}", quote_ident(name), t.portable(&field, depth))
                });
                or_null(pack(fields))
            }
            Self::Tuple(members) => {
                let fields = members.iter().enumerate().map(|(i, t)| {
                    let field = format!("struct_extract({x}, {})", i + 1);
                    format!("{} := {}", position(i), t.portable(&field, depth))
                });
                or_null(pack(fields))
            }
            Self::Map(key, value) => {
                let entry = format!("x{depth}");
                let key = key.portable(&format!("struct_extract({entry}, 'key')"), depth + 1);
                let value = value.portable(&format!("struct_extract({entry}, 'value')"), depth + 1);
                format!(
                    "map_from_entries(list_transform(map_entries({x}), lambda {entry}: struct_pack(k := {key}, v := {value})))"
                )
            }
            Self::Union(members) => {
                let tag = format!("{} := CAST(union_tag({x}) AS VARCHAR)", quote_ident(&tag_name(members)));
                let fields = members.iter().map(|(name, t)| {
                    let member = format!("union_extract({x}, {})", literal(name));
                    format!("{} := {}", quote_ident(name), t.portable(&member, depth))
                });
                or_null(pack(std::iter::once(tag).chain(fields)))
            }
        }
    }

    /// Returns the value again from the expression `x` of its portable form.
    fn value(&self, x: &str, depth: usize) -> String {
        if self.is_portable() {
            return x.to_owned();
        }
        let or_null = |made: String| format!("CASE WHEN {x} IS NULL THEN NULL ELSE {made} END");
        let field = |name: &str| format!("struct_extract({x}, {})", literal(name));
        match self {
            Self::Plain(Plain::Interval) => or_null(format!(
                "to_months({}) + to_days({}) + to_microseconds({})",
                field("months"),
                field("days"),
                field("micros")
            )),
            Self::Plain(Plain::Geometry) => format!("ST_GeomFromWKB({x})"),
            Self::Plain(_) | Self::Decimal(..) | Self::Enum(_) | Self::Other(_) => format!("CAST({x} AS {self})"),
            Self::List(inner) => {
                let element = format!("x{depth}");
                format!("list_transform({x}, lambda {element}: {})", inner.value(&element, depth + 1))
            }
            Self::Array(inner, _) => format!("CAST({} AS {self})", Self::List(inner.clone()).value(x, depth)),
            Self::Struct(members) => {
                let fields = members.iter().map(|(name, t)| format!("{} := {}", quote_ident(name), t.value(&field(name), depth)));
                or_null(pack(fields))
            }
            Self::Tuple(members) => {
                let fields = members.iter().enumerate().map(|(i, t)| t.value(&field(&position(i)), depth));
                or_null(format!("row({})", fields.collect::<Vec<_>>().join(", ")))
            }
            Self::Map(key, value) => {
                let entry = format!("x{depth}");
                let key = key.value(&format!("struct_extract({entry}, 'key')"), depth + 1);
                let value = value.value(&format!("struct_extract({entry}, 'value')"), depth + 1);
                format!(
                    "map_from_entries(list_transform(map_entries({x}), lambda {entry}: struct_pack(k := {key}, v := {value})))"
                )
            }
            Self::Union(members) => {
                let tag = field(&tag_name(members));
                let cases = members.iter().map(|(name, t)| {
                    let member = format!("CAST({} AS {t})", t.value(&field(name), depth));
                    format!("WHEN {} THEN CAST(union_value({} := {member}) AS {self})", literal(name), quote_ident(name))
                });
                format!("CASE {tag} {} END", cases.collect::<Vec<_>>().join(" "))
            }
        }
    }

    /// Tells whether values travel as they are.
    pub(crate) fn is_portable(&self) -> bool {
        match self {
            Self::Plain(plain) => matches!(
                plain,
                Plain::Boolean
                    | Plain::TinyInt
                    | Plain::SmallInt
                    | Plain::Integer
                    | Plain::BigInt
                    | Plain::Float
                    | Plain::Double
                    | Plain::Varchar
                    | Plain::Blob
                    | Plain::Date
                    | Plain::Timestamp
                    | Plain::TimestampTz
            ),
            Self::Decimal(..) => true,
            Self::List(inner) => inner.is_portable(),
            Self::Struct(members) => members.iter().all(|(_, t)| t.is_portable()),
            Self::Map(key, value) => key.is_portable() && value.is_portable(),
            Self::Enum(_) | Self::Array(..) | Self::Tuple(_) | Self::Union(_) | Self::Other(_) => false,
        }
    }

    /// Tells whether a value may be infinite, and its readable column therefore NULL.
    pub(crate) fn may_be_infinite(&self) -> bool {
        matches!(self, Self::Plain(Plain::Date | Plain::Timestamp | Plain::TimestampTz | Plain::TimestampS | Plain::TimestampMs))
    }

    /// Returns SQL for what is stored of the column `x`. `infinite` = the table holds infinite values in it.
    pub(crate) fn stored(&self, x: &str, infinite: bool) -> String {
        let portable = self.portable(x, 0);
        if infinite { format!("CASE WHEN isfinite({x}) THEN {portable} END") } else { portable }
    }

    /// Returns SQL for the value of the column called `name`, from the stored column called `stored`.
    pub(crate) fn restored(&self, name: &str, stored: &str) -> String {
        let value = self.value(&quote_ident(stored), 0);
        if self.may_be_infinite() {
            let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
            let exact = format!("CAST(json_extract_string({}, {}) AS {self})", quote_ident(EXACT), literal(&pointer));
            // Nothing is looked for where there is nothing.
            return format!("CASE WHEN {} IS NULL THEN {value} ELSE COALESCE({value}, {exact}) END", quote_ident(EXACT));
        }
        value
    }

    /// Returns SQL for the text of the expression `x`: DuckDB's cast of a value that is not nested; of a nested one the texts of what
    /// is in it, each with its length before it (`3:abc`), or `-` for NULL. How DuckDB writes lists and structs depends on its version.
    pub(crate) fn text(&self, x: &str) -> String {
        self.text_at(x, 0)
    }

    fn text_at(&self, x: &str, depth: usize) -> String {
        let or_null = |made: String| format!("CASE WHEN {x} IS NULL THEN NULL ELSE {made} END");
        let element = format!("x{depth}");
        let all_of = |list: String, each: String| {
            or_null(format!("coalesce(array_to_string(list_transform({list}, lambda {element}: {each}), ''), '')"))
        };
        match self {
            Self::Plain(Plain::Varchar) => x.to_owned(),
            Self::Plain(Plain::Geometry) => format!("hex(CAST(ST_AsWKB({x}) AS BLOB))"),
            Self::Plain(_) | Self::Decimal(..) | Self::Enum(_) | Self::Other(_) => format!("CAST({x} AS VARCHAR)"),
            Self::List(inner) => all_of(x.to_owned(), framed(&inner.text_at(&element, depth + 1))),
            Self::Array(inner, _) => all_of(format!("CAST({x} AS {inner}[])"), framed(&inner.text_at(&element, depth + 1))),
            Self::Struct(members) => or_null(joined(
                members.iter().map(|(name, t)| framed(&t.text_at(&format!("struct_extract({x}, {})", literal(name)), depth))),
            )),
            Self::Tuple(members) => or_null(joined(
                members.iter().enumerate().map(|(i, t)| framed(&t.text_at(&format!("struct_extract({x}, {})", i + 1), depth))),
            )),
            Self::Map(key, value) => {
                let of = |t: &Self, part: &str| framed(&t.text_at(&format!("struct_extract({element}, '{part}')"), depth + 1));
                all_of(format!("map_entries({x})"), joined([of(key, "key"), of(value, "value")].into_iter()))
            }
            Self::Union(members) => {
                let cases = members.iter().map(|(name, t)| {
                    let member = t.text_at(&format!("union_extract({x}, {})", literal(name)), depth);
                    let tagged = joined([framed(&literal(name)), framed(&member)].into_iter());
                    format!("WHEN {} THEN {tagged}", literal(name))
                });
                let cases: Vec<String> = cases.collect();
                or_null(format!("CASE CAST(union_tag({x}) AS VARCHAR) {} END", cases.join(" ")))
            }
        }
    }
}

/// A text within another: its length in bytes, and it; `-` is NULL.
fn framed(text: &str) -> String {
    format!("coalesce(strlen({text}) || ':' || {text}, '-')")
}

fn joined(texts: impl Iterator<Item = String>) -> String {
    format!("({})", texts.collect::<Vec<_>>().join(" || "))
}

/// Returns SQL for the exact column of a row, from the columns (name, SQL) that hold infinite values.
pub(crate) fn exact(columns: &[(&str, String)]) -> String {
    if columns.is_empty() {
        return "CAST(NULL AS VARCHAR)".into();
    }
    let any: Vec<String> = columns.iter().map(|(_, x)| format!("NOT isfinite({x})")).collect();
    let pairs: Vec<String> = columns
        .iter()
        .map(|(name, x)| {
            let key = serde_json::Value::from(*name).to_string();
            format!("CASE WHEN NOT isfinite({x}) THEN {} || CAST({x} AS VARCHAR) || '\"' END", literal(&format!("{key}:\"")))
        })
        .collect();
    format!("CASE WHEN {} THEN '{{' || concat_ws(',', {}) || '}}' END", any.join(" OR "), pairs.join(", "))
}

/// Returns SQL for the fingerprint `t1` of a table: `rows` is what stands after FROM, `texts` the text of each column.
pub(crate) fn fingerprint(rows: &str, texts: &[String]) -> String {
    let framed: Vec<String> = texts
        .iter()
        .map(|t| format!("coalesce(unhex(printf('%08x', octet_length(encode({t})))) || encode({t}), unhex('ffffffff'))"))
        .collect();
    let row = if framed.is_empty() { "unhex('')".into() } else { framed.join("\n   || ") };
    let lane = |half: &str| {
        format!(
            "printf('%016x', CAST(coalesce(sum(CAST(CAST('0x' || {half}(h, 16) AS UBIGINT) AS HUGEINT)), 0) % 18446744073709551616 AS UBIGINT))"
        )
    };
    format!(
        "SELECT 't1:' || count(*) || ':' || {} || {} AS fingerprint FROM (SELECT md5({row}) AS h FROM {rows})",
        lane("left"),
        lane("right")
    )
}

fn pack(fields: impl Iterator<Item = String>) -> String {
    format!("struct_pack({})", fields.collect::<Vec<_>>().join(", "))
}

fn position(i: usize) -> String {
    format!("f{}", i + 1)
}

/// The name of the field that says which member of a union is set.
fn tag_name(members: &[(String, DuckType)]) -> String {
    let mut name = String::from("tag");
    while members.iter().any(|(m, _)| m.eq_ignore_ascii_case(&name)) {
        name.push('_');
    }
    name
}
