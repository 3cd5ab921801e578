//! Definitions with which engines read an archive where it lies: Athena and Trino with partition projection (no crawler, no partitions to
//! add), Spark, DuckDB.
//!
//! Sources: AWS, *Partition projection with Amazon Athena*; Trino, *Hive connector, partition projection*; Spark SQL, *CREATE TABLE*;
//! DuckDB, *Hive partitioning*. Columns are those of the newest published unit.

use arrow_schema::DataType;
use dozo_catalog::Repository;
use dozo_model::{Column, SourceName, quote_ident, quote_literal};
use dozo_postgres::arrow_schema;
use dozo_store::{Layout, encode_name};

use super::job::{ArchiveJob, Granularity, Then};
use crate::{EngineError, Result};

/// An engine that reads archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DdlEngine {
    /// Amazon Athena.
    Athena,
    /// Trino, with its Hive connector.
    Trino,
    /// Apache Spark.
    Spark,
    /// DuckDB.
    Duckdb,
}

/// Writes the definition of the table of an archive.
///
/// # Errors
/// When nothing is published, or what the repository says.
pub async fn archive_ddl(repository: &Repository, source: &SourceName, job: &ArchiveJob, engine: DdlEngine) -> Result<String> {
    let units = repository.archive_units(source).await?;
    let of_job: Vec<_> =
        units.iter().filter(|u| u.plan.job == job.name && u.plan.root == job.root() && u.is_published()).collect();
    let Some(newest) = of_job.last() else {
        return Err(EngineError::Options(format!("archive `{}` has no published unit yet: dozo archive apply", job.name)));
    };
    let manifest = repository.unit_manifest(newest).await?;
    let columns = manifest.datasets().first().map(|d| d.columns.clone()).unwrap_or_default();
    let labels = of_job.iter().filter_map(|u| u.plan.label.split_once('=').map(|(_, value)| value.to_owned())).collect();
    let place = Place {
        name: encode_name(&job.table.name).replace(['-', '.'], "_"),
        url: location(repository.store().url(), &format!("{}/{}", Layout::archive(source, &job.table), job.root())),
        key: job.label_column(),
        granularity: job.granularity,
        labels,
        copy: job.then == Then::Keep,
    };
    Ok(write(engine, &columns, &place))
}

struct Place {
    name: String,
    url: String,
    key: String,
    granularity: Granularity,
    labels: Vec<String>,
    copy: bool,
}

fn location(url: &str, folder: &str) -> String {
    format!("{}/{folder}", url.trim_end_matches('/'))
}

fn write(engine: DdlEngine, columns: &[Column], place: &Place) -> String {
    let note = if place.copy { "-- A copy: the database still holds these rows.\n" } else { "" };
    let body = match engine {
        DdlEngine::Athena => athena(columns, place),
        DdlEngine::Trino => trino(columns, place),
        DdlEngine::Spark => spark(columns, place),
        DdlEngine::Duckdb => duckdb(place),
    };
    format!("{note}{body}")
}

/// The fields of the files, with the column that holds what the others cannot.
fn fields(columns: &[Column]) -> Vec<(String, DataType)> {
    arrow_schema(columns).fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect()
}

/// The range of the folders, as projections want it: those that are there, and whatever comes.
fn projection(place: &Place) -> Vec<(&'static str, String)> {
    let first = place.labels.iter().min().cloned().unwrap_or_default();
    let date = |format: &str, unit: &str| {
        vec![
            ("type", "date".to_owned()),
            ("format", format.to_owned()),
            ("range", format!("{first},NOW")),
            ("interval", "1".to_owned()),
            ("interval.unit", unit.to_owned()),
        ]
    };
    match place.granularity {
        Granularity::Year => date("yyyy", "YEARS"),
        Granularity::Month => date("yyyy-MM", "MONTHS"),
        Granularity::Day => date("yyyy-MM-dd", "DAYS"),
        // No format has ISO weeks: they are listed.
        Granularity::Week => {
            let mut weeks = place.labels.clone();
            weeks.sort();
            weeks.dedup();
            vec![("type", "enum".to_owned()), ("values", weeks.join(","))]
        }
    }
}

fn athena(columns: &[Column], place: &Place) -> String {
    let list: Vec<String> = fields(columns).iter().map(|(name, t)| format!("  `{name}` {}", hive_type(t))).collect();
    let mut properties = vec![("projection.enabled".to_owned(), "true".to_owned())];
    properties.extend(projection(place).into_iter().map(|(k, v)| (format!("projection.{}.{k}", place.key), v)));
    properties.push(("storage.location.template".into(), format!("{}/{}=${{{}}}/", place.url, place.key, place.key)));
    let properties: Vec<String> =
        properties.iter().map(|(k, v)| format!("  {} = {}", quote_literal(k), quote_literal(v))).collect();
    format!(
        "CREATE EXTERNAL TABLE `{}` (\n{}\n)\nPARTITIONED BY (`{}` string)\nSTORED AS PARQUET\nLOCATION {}\nTBLPROPERTIES (\n{}\n);",
        place.name,
        list.join(",\n"),
        place.key,
        quote_literal(&format!("{}/", place.url)),
        properties.join(",\n")
    )
}

fn trino(columns: &[Column], place: &Place) -> String {
    let mut list: Vec<String> =
        fields(columns).iter().map(|(name, t)| format!("  {} {}", quote_ident(name), trino_type(t))).collect();
    let properties: Vec<String> = projection(place)
        .into_iter()
        .map(|(k, v)| match k {
            "type" => format!("partition_projection_type = {}", quote_literal(&v.to_uppercase())),
            "format" => format!("partition_projection_format = {}", quote_literal(&v)),
            "interval" => format!("partition_projection_interval = {v}"),
            "interval.unit" => format!("partition_projection_interval_unit = {}", quote_literal(&v)),
            "range" => {
                let ends: Vec<String> = v.split(',').map(quote_literal).collect();
                format!("partition_projection_range = ARRAY[{}]", ends.join(", "))
            }
            _ => {
                let values: Vec<String> = v.split(',').map(quote_literal).collect();
                format!("partition_projection_values = ARRAY[{}]", values.join(", "))
            }
        })
        .collect();
    list.push(format!("  {} varchar WITH (\n    {}\n  )", quote_ident(&place.key), properties.join(",\n    ")));
    format!(
        "CREATE TABLE {} (\n{}\n)\nWITH (\n  external_location = {},\n  format = 'PARQUET',\n  partitioned_by = ARRAY[{}],\n  \
         partition_projection_enabled = true,\n  partition_projection_location_template = {}\n);",
        quote_ident(&place.name),
        list.join(",\n"),
        quote_literal(&format!("{}/", place.url)),
        quote_literal(&place.key),
        quote_literal(&format!("{}/{}=${{{}}}/", place.url, place.key, place.key))
    )
}

fn spark(columns: &[Column], place: &Place) -> String {
    let mut list: Vec<String> =
        fields(columns).iter().map(|(name, t)| format!("  `{name}` {}", hive_type(t).to_uppercase())).collect();
    list.push(format!("  `{}` STRING", place.key));
    format!(
        "CREATE TABLE `{0}` (\n{1}\n)\nUSING PARQUET\nPARTITIONED BY (`{2}`)\nLOCATION {3};\nMSCK REPAIR TABLE `{0}`;",
        place.name,
        list.join(",\n"),
        place.key,
        quote_literal(&place.url)
    )
}

fn duckdb(place: &Place) -> String {
    let path = place.url.strip_prefix("file://").unwrap_or(&place.url);
    format!(
        "CREATE VIEW {} AS\nSELECT * FROM read_parquet({}, hive_partitioning = true, hive_types = {{{}: VARCHAR}}, union_by_name = true);",
        quote_ident(&place.name),
        quote_literal(&format!("{path}/*/*.parquet")),
        quote_literal(&place.key)
    )
}

/// Types of Hive, which Athena and Spark share.
fn hive_type(t: &DataType) -> String {
    match t {
        DataType::Boolean => "boolean".into(),
        DataType::Int8 => "tinyint".into(),
        DataType::Int16 => "smallint".into(),
        DataType::Int32 | DataType::UInt16 => "int".into(),
        DataType::Int64 | DataType::UInt32 | DataType::Time64(_) => "bigint".into(),
        DataType::Float32 => "float".into(),
        DataType::Float64 => "double".into(),
        DataType::Decimal128(p, s) | DataType::Decimal256(p, s) => format!("decimal({p},{s})"),
        DataType::Date32 => "date".into(),
        DataType::Timestamp(..) => "timestamp".into(),
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) => "binary".into(),
        DataType::List(inner) | DataType::LargeList(inner) => format!("array<{}>", hive_type(inner.data_type())),
        DataType::Struct(fields) => {
            let list: Vec<String> = fields.iter().map(|f| format!("`{}`:{}", f.name(), hive_type(f.data_type()))).collect();
            format!("struct<{}>", list.join(","))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                format!("map<{},{}>", hive_type(pair[0].data_type()), hive_type(pair[1].data_type()))
            }
            _ => "string".into(),
        },
        _ => "string".into(),
    }
}

fn trino_type(t: &DataType) -> String {
    match t {
        DataType::Int32 | DataType::UInt16 => "integer".into(),
        DataType::Float32 => "real".into(),
        DataType::Timestamp(..) => "timestamp(6)".into(),
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) => "varbinary".into(),
        DataType::List(inner) | DataType::LargeList(inner) => format!("array({})", trino_type(inner.data_type())),
        DataType::Struct(fields) => {
            let list: Vec<String> =
                fields.iter().map(|f| format!("{} {}", quote_ident(f.name()), trino_type(f.data_type()))).collect();
            format!("row({})", list.join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                format!("map({}, {})", trino_type(pair[0].data_type()), trino_type(pair[1].data_type()))
            }
            _ => "varchar".into(),
        },
        other => match hive_type(other).as_str() {
            "string" => "varchar".into(),
            text => text.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(granularity: Granularity) -> Place {
        Place {
            name: "orders".into(),
            url: "s3://bucket/dozo/archive/shop/public/orders/v1".into(),
            key: format!("ordered_at_{}", granularity.as_str()),
            granularity,
            labels: vec!["2023-02".into(), "2023-01".into()],
            copy: false,
        }
    }

    #[test]
    fn engines_find_months_without_being_told() {
        let text = write(DdlEngine::Athena, &[], &place(Granularity::Month));
        assert!(text.contains("'projection.ordered_at_month.range' = '2023-01,NOW'"), "{text}");
        assert!(text.contains("v1/ordered_at_month=${ordered_at_month}/'"), "{text}");
        let text = write(DdlEngine::Trino, &[], &place(Granularity::Month));
        assert!(text.contains("partition_projection_range = ARRAY['2023-01', 'NOW']"), "{text}");
        let weeks = Place { labels: vec!["2023-W02".into(), "2023-W01".into()], ..place(Granularity::Week) };
        let text = write(DdlEngine::Athena, &[], &weeks);
        assert!(text.contains("'projection.ordered_at_week.values' = '2023-W01,2023-W02'"), "{text}");
        assert!(write(DdlEngine::Spark, &[], &place(Granularity::Year)).contains("MSCK REPAIR TABLE `orders`"));
        assert!(write(DdlEngine::Duckdb, &[], &place(Granularity::Day)).contains("/v1/*/*.parquet'"));
    }
}
