//! A DuckDB file that is read: waited for, attached, looked at.
//!
//! DuckDB holds a POSIX lock on the file. Such a lock belongs to the process and is lost when the process closes *any* descriptor of
//! the file: ours is opened before DuckDB's and closed after it (`Held`), and nothing else here opens the file meanwhile.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dozo_model::{DuckdbColumn, quote_ident};
use duckdb::{Config, Connection};

use crate::error::said;
use crate::sql::literal;
use crate::types::DuckType;
use crate::{DuckdbError, Result, RowRange};

/// Between two attempts to open a file that somebody holds.
const AGAIN: Duration = Duration::from_millis(10);
/// Names that an attached database cannot have, or not be used under.
const RESERVED: [&str; 6] = ["main", "memory", "system", "temp", "information_schema", "pg_catalog"];
/// What DuckDB says when somebody else has locked the file.
const LOCKED: &str = "Could not set lock on file";
/// Endings of the files that DuckDB keeps beside a database while it is written.
pub(crate) const BESIDE: [&str; 3] = [".wal", ".wal.checkpoint", ".wal.recovery"];

/// How files are opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// How long a file that another process holds is waited for.
    pub lock_timeout: Duration,
    /// Memory that DuckDB may use, in bytes.
    pub memory: u64,
    /// Folder for what does not fit.
    pub temp: PathBuf,
}

/// What the header of a file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileHead {
    /// Version of the DuckDB that wrote it.
    pub written_by: Option<String>,
}

impl FileHead {
    /// Reads it; what is no DuckDB file says nothing. Source: `MainHeader` in `src/include/duckdb/storage/storage_info.hpp`.
    fn of(file: &File) -> Self {
        let mut head = [0; 84];
        if file.read_exact_at(&mut head, 0).is_err() || &head[8..12] != b"DUCK" {
            return Self::default();
        }
        let version: Vec<u8> = head[52..84].iter().copied().take_while(u8::is_ascii_graphic).collect();
        let version = String::from_utf8(version).ok().filter(|v| !v.is_empty());
        Self { written_by: version }
    }
}

/// Keeps our descriptor open for as long as any connection stands.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) file: File,
}

/// An opened file.
pub struct DuckFile {
    connection: Mutex<Connection>,
    held: Arc<Held>,
    path: PathBuf,
    catalog: String,
    /// What its header says.
    pub head: FileHead,
}

/// A table and what of it is read.
#[derive(Debug, Clone)]
pub struct TableInfo {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// Columns in the table's order, generated ones left out.
    pub columns: Vec<DuckdbColumn>,
    /// First row id after its rows.
    pub end: u64,
    /// How many rows it has.
    pub rows: u64,
    /// A column hides the row ids: it is read in one piece.
    pub whole: bool,
    pub(crate) types: Vec<DuckType>,
    /// Columns that hold infinite values, by position.
    pub(crate) infinite: Vec<bool>,
}

/// Returns the version of the DuckDB that is built in, like `2.0.0`.
///
/// # Errors
/// None that is known.
pub fn engine_version() -> Result<String> {
    let connection = instance(1, 64 << 20, None)?;
    let version = connection.version().map_err(|e| DuckdbError::query("version", &e))?;
    Ok(version.trim_start_matches('v').to_owned())
}

/// Makes an instance in memory that loads nothing from anywhere.
pub(crate) fn instance(threads: usize, memory: u64, temp: Option<&Path>) -> Result<Connection> {
    let temp = temp.map(|t| t.display().to_string()).unwrap_or_default();
    let memory = format!("{}MiB", (memory >> 20).max(32));
    let config = Config::default()
        .threads(i64::try_from(threads).unwrap_or(1))
        .and_then(|c| c.max_memory(&memory))
        .and_then(|c| c.enable_autoload_extension(false))
        .and_then(|c| c.with("autoinstall_known_extensions", "false"))
        .and_then(|c| c.with("temp_directory", &temp))
        .and_then(|c| c.with("preserve_insertion_order", "true"))
        .map_err(|e| DuckdbError::query("settings", &e))?;
    // Without the extension ICU there is no other time zone than UTC: texts of timestamps need no setting.
    Connection::open_in_memory_with_flags(config).map_err(|e| DuckdbError::query("DuckDB", &e))
}

/// The name that DuckDB gives a file when it is opened: views may say it.
pub(crate) fn catalog_name(path: &Path) -> String {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    // DuckDB cuts at the first dot.
    let stem = name.split('.').next().unwrap_or_default().to_owned();
    if stem.is_empty() || RESERVED.iter().any(|r| stem.eq_ignore_ascii_case(r)) { format!("{stem}_db") } else { stem }
}

impl DuckFile {
    /// Opens a file read-only, waiting for whoever holds it. `stopped` is asked between attempts.
    ///
    /// # Errors
    /// [`DuckdbError::Locked`], [`DuckdbError::Open`], [`DuckdbError::File`].
    pub fn open(path: &Path, options: &OpenOptions, stopped: impl Fn() -> bool) -> Result<Self> {
        // DuckDB follows links, and keeps the WAL beside what they lead to.
        let at = |source| DuckdbError::File { path: path.to_owned(), source };
        let real = path.canonicalize().map_err(at)?;
        let connection = instance(1, options.memory, Some(&options.temp))?;
        let catalog = catalog_name(path);
        let attach = format!("ATTACH {} AS {} (READ_ONLY)", literal(&real.display().to_string()), quote_ident(&catalog));
        let began = Instant::now();
        let file = loop {
            let file = File::open(&real).map_err(at)?;
            match connection.execute_batch(&attach) {
                // Another file may have taken the name since ours was opened.
                Ok(()) if same_file(&file, &real).map_err(at)? => break file,
                Ok(()) => connection
                    .execute_batch(&format!("DETACH {}", quote_ident(&catalog)))
                    .map_err(|e| DuckdbError::query(path.display().to_string(), &e))?,
                Err(error) => {
                    let reason = said(&error);
                    if !reason.contains(LOCKED) {
                        let (engine, written_by) = (engine_version()?, FileHead::of(&file).written_by);
                        return Err(DuckdbError::Open { path: path.to_owned(), engine, written_by, reason });
                    }
                    if began.elapsed() >= options.lock_timeout {
                        let holder = reason.split_once("held in ").map(|(_, h)| h);
                        let pid =
                            holder.and_then(|h| h.rsplit_once("(PID ")?.1.split(')').next()?.parse().ok()).filter(|p| *p > 0);
                        let program = || holder.and_then(|h| h.split(" (PID").next()).map(str::to_owned);
                        let command = pid.and_then(command_of).or_else(program);
                        return Err(DuckdbError::Locked { path: path.to_owned(), pid, command, waited: options.lock_timeout });
                    }
                }
            }
            if stopped() {
                return Err(DuckdbError::Cancelled);
            }
            std::thread::sleep(AGAIN);
        };
        let head = FileHead::of(&file);
        let held = Arc::new(Held { file });
        connection
            .execute_batch(&format!("USE {}", quote_ident(&catalog)))
            .map_err(|e| DuckdbError::query(path.display().to_string(), &e))?;
        Ok(Self { connection: Mutex::new(connection), held, path: real, catalog, head })
    }

    /// Returns the file's bytes, as they stand while it is open.
    #[must_use]
    pub fn bytes(&self) -> &File {
        &self.held.file
    }

    /// Returns the files beside it that hold committed rows, each with its ending: where there are any, its bytes alone are not its
    /// state.
    #[must_use]
    pub fn beside(&self) -> Vec<(PathBuf, &'static str)> {
        let all = BESIDE.iter().map(|ending| (with_ending(&self.path, ending), *ending));
        all.filter(|(path, _)| std::fs::metadata(path).is_ok_and(|m| m.len() > 0)).collect()
    }

    /// Returns the storage version, as DuckDB says it.
    ///
    /// # Errors
    /// [`DuckdbError::Query`].
    pub fn storage_version(&self) -> Result<String> {
        let sql =
            format!("SELECT tags['storage_version'] FROM duckdb_databases() WHERE database_name = {}", literal(&self.catalog));
        let found: Option<String> = self.connection().query_row(&sql, [], |r| r.get(0)).map_err(|e| self.failed(&e))?;
        Ok(found.unwrap_or_else(|| "unknown".into()))
    }

    /// Returns all tables, in the order in which they were made: one that others refer to comes before them.
    ///
    /// # Errors
    /// [`DuckdbError::Query`]; [`DuckdbError::NestedSchemas`].
    pub fn tables(&self) -> Result<Vec<TableInfo>> {
        let connection = self.connection();
        // Their tables cannot be told by schema and name.
        let nested = format!(
            "SELECT string_agg(schema_name, ', ' ORDER BY schema_name) FROM duckdb_schemas() WHERE database_name = {} AND parent_schema IS NOT NULL",
            literal(&self.catalog)
        );
        let nested: Option<String> = connection.query_row(&nested, [], |r| r.get(0)).map_err(|e| self.failed(&e))?;
        if let Some(schemas) = nested {
            return Err(DuckdbError::NestedSchemas { path: self.path.clone(), schemas });
        }
        tables(&connection, &self.catalog).map_err(|e| self.failed(&e))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn catalog(&self) -> &str {
        &self.catalog
    }

    /// Returns another connection, and what keeps the file's lock.
    pub(crate) fn share(&self) -> Result<(Connection, Arc<Held>)> {
        let connection = self.connection().try_clone().map_err(|e| self.failed(&e))?;
        Ok((connection, Arc::clone(&self.held)))
    }

    pub(crate) fn failed(&self, error: &duckdb::Error) -> DuckdbError {
        DuckdbError::query(self.path.display().to_string(), error)
    }
}

/// Returns the files that DuckDB would take for part of a database at `path`: there must be none beside a restored one.
#[must_use]
pub fn companions(path: &Path) -> Vec<PathBuf> {
    let all = BESIDE.iter().map(|ending| with_ending(path, ending));
    all.filter(|p| p.symlink_metadata().is_ok()).collect()
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn same_file(open: &File, path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (a, b) = (open.metadata()?, std::fs::metadata(path)?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

/// What a process runs, where this machine tells.
fn command_of(pid: u32) -> Option<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> =
        line.split(|b| *b == 0).filter(|w| !w.is_empty()).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    // Arguments may be secrets: the program, and what it was asked to run.
    let shown: Vec<&str> = words.iter().take(2).map(String::as_str).collect();
    (!shown.is_empty()).then(|| shown.join(" "))
}

pub(crate) fn tables(connection: &Connection, catalog: &str) -> std::result::Result<Vec<TableInfo>, duckdb::Error> {
    let catalog_text = literal(catalog);
    let sql = format!(
        "SELECT t.schema_name, t.table_name, c.column_name, c.data_type, c.is_generated FROM duckdb_tables() t \
         LEFT JOIN duckdb_columns() c ON c.table_oid = t.table_oid AND c.database_name = t.database_name \
         AND c.schema_name = t.schema_name \
         WHERE t.database_name = {catalog_text} AND NOT t.internal AND NOT t.temporary ORDER BY t.table_oid, c.column_index"
    );
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map([], |r| {
        let column = (r.get::<_, Option<String>>(2)?, r.get::<_, Option<String>>(3)?, r.get::<_, Option<bool>>(4)?);
        Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?, column))
    })?;
    let mut found: Vec<TableInfo> = Vec::new();
    for row in rows {
        let (schema, name, (column, type_name, generated)) = row?;
        if found.last().is_none_or(|t| t.schema != schema || t.name != name) {
            let none = (vec![], vec![], vec![]);
            let (columns, types, infinite) = none;
            found.push(TableInfo { schema, name, columns, end: 0, rows: 0, whole: false, types, infinite });
        }
        let (Some(table), Some(name), Some(type_name)) = (found.last_mut(), column, type_name) else { continue };
        table.whole |= name.eq_ignore_ascii_case("rowid");
        if generated == Some(true) {
            continue;
        }
        let parquet_name = free_name(&name, &table.columns);
        table.types.push(DuckType::parse(&type_name));
        table.infinite.push(false);
        table.columns.push(DuckdbColumn { name, parquet_name, type_name });
    }
    for table in &mut found {
        let from = table.from(catalog);
        let end = if table.whole { "count(*)" } else { "coalesce(max(rowid) + 1, 0)" };
        let asked = format!("SELECT {end}, count(*) FROM {from}");
        (table.end, table.rows) = connection.query_row(&asked, [], |r| Ok((r.get(0)?, r.get(1)?)))?;
        let may: Vec<usize> = (0..table.types.len()).filter(|i| table.types[*i].may_be_infinite()).collect();
        if !may.is_empty() {
            let asked: Vec<String> = may
                .iter()
                .map(|i| format!("coalesce(bool_or(isinf({})), false)", quote_ident(&table.columns[*i].name)))
                .collect();
            let sql = format!("SELECT {} FROM {from}", asked.join(", "));
            let answers: Vec<bool> = connection.query_row(&sql, [], |r| (0..may.len()).map(|n| r.get(n)).collect())?;
            may.into_iter().zip(answers).for_each(|(i, infinite)| table.infinite[i] = infinite);
        }
    }
    Ok(found)
}

/// Finds a name that no other column has, whatever the case: engines of the Hive family do not tell them apart.
fn free_name(name: &str, taken: &[DuckdbColumn]) -> String {
    let used =
        |n: &str| n.eq_ignore_ascii_case(crate::codec::EXACT) || taken.iter().any(|c| c.parquet_name.eq_ignore_ascii_case(n));
    let mut free = name.to_owned();
    let mut n = 2;
    while used(&free) {
        free = format!("{name}__{n}");
        n += 1;
    }
    free
}

impl TableInfo {
    pub(crate) fn from(&self, catalog: &str) -> String {
        crate::sql::qualified(&[catalog, &self.schema, &self.name])
    }

    /// Returns the range of all rows.
    #[must_use]
    pub fn all(&self) -> RowRange {
        RowRange { from: 0, to: self.end }
    }

    /// Returns the columns that the parquet form cannot hold, each with its type.
    #[must_use]
    pub fn inexact(&self) -> Vec<String> {
        let other = |(c, t): (&DuckdbColumn, &DuckType)| {
            matches!(t, DuckType::Other(_)).then(|| format!("{}.{}.{} ({})", self.schema, self.name, c.name, c.type_name))
        };
        self.columns.iter().zip(&self.types).filter_map(other).collect()
    }
}
