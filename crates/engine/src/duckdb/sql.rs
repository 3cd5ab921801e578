//! `sql`: a query over the Parquet objects of a backup, by the built-in DuckDB.
//!
//! Objects of the tables that the query names are fetched and compared with the manifest (a local one is read where it lies), views
//! over them are made, then the door is closed: nothing else can be read, loaded or written.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;
use std::time::Instant;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use dozo_catalog::Repository;
use dozo_duckdb::{Queries, QueryTable, TableInfo, path_of};
use dozo_encode::{EncodeOptions, ParquetEncoder, TableEncoder};
use dozo_model::{
    Content, Dataset, DuckdbContent, DuckdbForm, Manifest, PostgresContent, QualifiedName, TableFormat, quote_ident,
};
use dozo_postgres::arrow_schema;

use crate::context::Context;
use crate::intact::Digests;
use crate::sql::{SqlForm, SqlOptions, SqlReport, SqlRows};
use crate::stored::FileSink;
use crate::workers::blocking;
use crate::{EngineError, Result};

/// Rows of a row group of an answer.
const ROW_GROUP: usize = 1 << 20;
const PART: usize = 8 << 20;

/// Makes the SQL of a view from the paths of its objects.
type View<'a> = Box<dyn Fn(&HashMap<&str, String>) -> String + Send + 'a>;

/// A stored table: where its rows are, and how its view is made from the paths of its objects.
struct Stored<'a> {
    name: QualifiedName,
    objects: Vec<&'a str>,
    view: View<'a>,
    escaped: bool,
    /// Another form than Parquet that it is kept in.
    format: Option<TableFormat>,
}

/// Answers a query. `each` is given the rows as they come.
///
/// # Errors
/// See [`EngineError`]; what `each` says.
pub(crate) async fn sql(
    ctx: &Context,
    repository: &Repository,
    manifest: &Manifest,
    query: &str,
    options: &SqlOptions,
    mut each: impl FnMut(SqlRows<'_>) -> std::io::Result<()> + Send + 'static,
) -> Result<SqlReport> {
    let began = Instant::now();
    let all = match &manifest.content {
        Content::Postgres(pg) => of_postgres(pg),
        Content::Duckdb(content) if content.form == DuckdbForm::Parquet => of_duckdb(content),
        Content::Duckdb(_) => {
            let text = format!("{}@{} holds whole files: restore it, and ask those", manifest.source, manifest.id);
            return Err(EngineError::Options(text));
        }
        Content::Files(_) | Content::Command(_) => {
            let text = format!("{}@{} holds files and no tables: restore it", manifest.source, manifest.id);
            return Err(EngineError::Options(text));
        }
    };
    // A table that is asked for stands in the text, whatever else does.
    let text = query.to_lowercase();
    let named = |t: &Stored<'_>| {
        let name = t.name.name.to_lowercase();
        text.contains(&name) || text.contains(&name.replace('"', "\"\""))
    };
    let asked: Vec<Stored<'_>> = all.into_iter().filter(named).collect();
    if let Some((table, format)) = asked.iter().find_map(|t| Some((&t.name, t.format?))) {
        let text = format!("{table} is kept as {}, and only Parquet is asked where it lies: restore it", format.as_str());
        return Err(EngineError::Options(text));
    }
    let digests = Digests::of(manifest);
    let mut keys: Vec<&str> = asked.iter().flat_map(|t| t.objects.iter().copied()).collect();
    keys.sort_unstable();
    keys.dedup();
    let bytes: u64 = keys.iter().filter_map(|key| digests.bytes(key)).sum();
    if bytes > options.cache_max {
        let text = format!("the tables of the query have {bytes} bytes, which is above --cache-max {}", options.cache_max);
        return Err(EngineError::Options(text));
    }
    let folder = tempfile::tempdir().map_err(EngineError::folder(&std::env::temp_dir()))?;
    let mut open: Vec<File> = Vec::new();
    let mut paths: HashMap<&str, String> = HashMap::new();
    for key in &keys {
        let file = super::file_of(digests.fetch(ctx, repository, key).await?)?;
        paths.insert(key, path_of(&file));
        open.push(file);
    }
    let tables: Vec<QueryTable> = asked
        .iter()
        .map(|t| QueryTable { schema: t.name.schema.clone(), name: t.name.name.clone(), rows: (t.view)(&paths) })
        .collect();
    let escaped = asked.iter().filter(|t| t.escaped).map(|t| t.name.to_string()).collect();
    let (options, objects) = (options.clone(), keys.len());
    let mut files: Vec<String> = paths.into_values().collect();
    files.sort();
    let question = question(query, &options.form);
    let cancel = ctx.cancel.clone();
    let rows = blocking(move || {
        let queries = Queries::open(&tables, folder.path(), &files, options.threads, options.memory)?;
        let answered = match &options.form {
            SqlForm::Parquet(path) => to_parquet(&queries, &question, path),
            SqlForm::Text | SqlForm::Json => texts(&queries, &question, &mut |rows| {
                if cancel.is_cancelled() { Err(std::io::ErrorKind::Interrupted.into()) } else { each(rows) }
            }),
        };
        // Until here the objects were open.
        drop(open);
        answered
    })
    .await?;
    Ok(SqlReport { rows, objects, bytes, escaped, seconds: began.elapsed().as_secs_f64() })
}

/// Wraps what was asked: one statement that yields rows, and nothing else, fits between the parentheses.
fn question(query: &str, form: &SqlForm) -> String {
    let query = query.trim().trim_end_matches(';');
    // A comment at its end would take the parenthesis with it.
    match form {
        SqlForm::Text => format!("SELECT CAST(COLUMNS(*) AS VARCHAR) FROM ({query}\n)"),
        SqlForm::Json => format!("SELECT CAST(to_json(dozo) AS VARCHAR) AS json FROM ({query}\n) dozo"),
        SqlForm::Parquet(_) => format!("SELECT * FROM ({query}\n)"),
    }
}

fn of_postgres(pg: &PostgresContent) -> Vec<Stored<'_>> {
    let mut trees: BTreeMap<&QualifiedName, Vec<&Dataset>> = BTreeMap::new();
    for dataset in pg.datasets.iter().filter(|d| d.kind.is_table()) {
        trees.entry(&dataset.name).or_default().push(dataset);
        if let Some(root) = &dataset.root {
            trees.entry(root).or_default().push(dataset);
        }
    }
    trees.into_iter().map(|(name, leaves)| of_tree(name, leaves)).collect()
}

/// A table, a partition, or all leaves of a tree.
fn of_tree<'a>(name: &QualifiedName, leaves: Vec<&'a Dataset>) -> Stored<'a> {
    let leaves_format = leaves.iter().map(|d| d.format).find(|f| *f != TableFormat::Parquet);
    let escaped = leaves.iter().any(|d| d.escaped.values().any(|n| *n > 0));
    Stored {
        name: name.clone(),
        objects: leaves.iter().flat_map(|d| &d.parts).map(|p| p.object.as_str()).collect(),
        view: Box::new(move |paths| {
            leaves.iter().map(|d| rows_of(d, escaped, paths)).collect::<Vec<_>>().join(" UNION ALL BY NAME ")
        }),
        escaped,
        format: leaves_format,
    }
}

/// The rows of a table or partition, with its columns' names. The exact column comes last, where something stands in it.
fn rows_of(dataset: &Dataset, exact: bool, paths: &HashMap<&str, String>) -> String {
    let schema = arrow_schema(&dataset.columns);
    let mut columns: Vec<String> =
        dataset.columns.iter().map(|c| format!("{} AS {}", quote_ident(&c.parquet_name), quote_ident(&c.name))).collect();
    let last = schema.fields().last().map(|f| f.name().clone()).unwrap_or_default();
    if exact || columns.is_empty() {
        columns.push(quote_ident(&last));
    }
    let columns = columns.join(", ");
    let from =
        |path: &String, range: &str| format!("SELECT {columns} FROM read_parquet('{path}', file_row_number = true){range}");
    let parts: Vec<String> = dataset
        .parts
        .iter()
        .filter_map(|p| {
            let range = p
                .first_row
                .map(|first| format!(" WHERE file_row_number >= {first} AND file_row_number < {}", first + p.fingerprint.rows));
            Some(from(paths.get(p.object.as_str())?, &range.unwrap_or_default()))
        })
        .collect();
    if parts.is_empty() {
        let nothing: Vec<String> = dataset.columns.iter().map(|c| format!("NULL AS {}", quote_ident(&c.name))).collect();
        return format!("SELECT {} WHERE false", nothing.join(", "));
    }
    parts.join(" UNION ALL ")
}

/// Tables of one file are called as in it; of several, the file's name stands before the schema.
fn of_duckdb(content: &DuckdbContent) -> Vec<Stored<'_>> {
    let several = content.files.len() > 1;
    let stored = |(file, table): (&str, &'_ dozo_model::DuckdbTable)| {
        let stem = Path::new(file).file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let schema = match (several, table.schema.as_str()) {
            (false, schema) => schema.to_owned(),
            (true, "main") => stem,
            (true, schema) => format!("{stem}_{schema}"),
        };
        QualifiedName::new(schema, &table.name)
    };
    content
        .tables()
        .map(|(file, table)| Stored {
            name: stored((file, table)),
            objects: table.parts.iter().map(|p| p.object.as_str()).collect(),
            view: Box::new(move |paths| {
                let files: Vec<String> =
                    table.parts.iter().filter_map(|p| Some(format!("'{}'", paths.get(p.object.as_str())?))).collect();
                if files.is_empty() {
                    let nothing: Vec<String> = table
                        .columns
                        .iter()
                        .map(|c| format!("CAST(NULL AS {}) AS {}", c.type_name, quote_ident(&c.name)))
                        .collect();
                    return format!("SELECT {} WHERE false", nothing.join(", "));
                }
                TableInfo::described(table).rows_sql(&format!("read_parquet([{}])", files.join(", ")))
            }),
            escaped: false,
            format: None,
        })
        .collect()
}

/// Answers in texts.
fn texts(queries: &Queries, question: &str, each: &mut dyn FnMut(SqlRows<'_>) -> std::io::Result<()>) -> Result<u64> {
    let names = RefCell::new(Vec::new());
    let mut count = 0;
    queries.run(
        question,
        |schema| {
            *names.borrow_mut() = schema.fields().iter().map(|f| f.name().clone()).collect();
            Ok(())
        },
        |batch: RecordBatch| {
            let columns: Vec<_> = batch.columns().iter().map(AsArray::as_string::<i32>).collect();
            let value = |c: &&arrow_array::StringArray, row| c.is_valid(row).then(|| c.value(row).to_owned());
            let rows: Vec<Vec<Option<String>>> =
                (0..batch.num_rows()).map(|row| columns.iter().map(|c| value(c, row)).collect()).collect();
            count += rows.len() as u64;
            each(SqlRows { columns: &names.borrow(), rows }).map_err(|e| match e.kind() {
                std::io::ErrorKind::Interrupted => EngineError::Cancelled,
                _ => EngineError::Output(e),
            })
        },
    )?;
    if count == 0 {
        // The names are an answer, too.
        each(SqlRows { columns: &names.borrow(), rows: Vec::new() }).map_err(EngineError::Output)?;
    }
    Ok(count)
}

/// Writes the answer into a new file.
fn to_parquet(queries: &Queries, question: &str, path: &Path) -> Result<u64> {
    let encode = |source| EngineError::Encode { object: path.display().to_string(), source };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::NamedTempFile::new_in(folder).map_err(EngineError::folder(folder))?;
    let (sink, failed) = FileSink::new(file.reopen().map_err(EngineError::folder(path))?);
    let options =
        EncodeOptions { zstd_level: 3, row_group_rows: ROW_GROUP, row_group_bytes: 8 * PART, part_bytes: PART, metadata: vec![] };
    let (encoder, sink) = (RefCell::new(None), RefCell::new(Some(sink)));
    let mut rows = 0;
    let written = queries.run(
        question,
        |schema| {
            if let Some(sink) = sink.take() {
                *encoder.borrow_mut() = Some(Box::new(ParquetEncoder::new(&schema, &options, sink).map_err(encode)?));
            }
            Ok::<(), EngineError>(())
        },
        |batch| {
            rows += batch.num_rows() as u64;
            match encoder.borrow_mut().as_mut() {
                Some(encoder) => encoder.write(&batch).map_err(encode),
                None => Ok(()),
            }
        },
    );
    let finished = written.and_then(|()| match encoder.into_inner() {
        Some(encoder) => encoder.finish().map(drop).map_err(encode),
        None => Ok(()),
    });
    // The disk's own error explains a sink that closed.
    if let Some(error) = failed.take() {
        return Err(EngineError::Output(error));
    }
    finished?;
    file.persist_noclobber(path).map_err(|e| EngineError::folder(path)(e.error))?;
    Ok(rows)
}
