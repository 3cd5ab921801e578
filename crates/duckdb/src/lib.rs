//! DuckDB files: read consistently, written back, and queries over stored Parquet.
//!
//! Place in the flow: source → Arrow, and back. It is the only crate that names `duckdb`. A file is attached read-only to an
//! instance in memory: while that stands, DuckDB's lock keeps writers out, so all connections of the instance see one committed
//! state. *Invariants*: never a torn copy, never another's process touched; whatever is read can be written back exactly, or is
//! refused by name. *Threads*: a connection belongs to one thread at a time. *Crash behaviour*: sources are only read; a file that is
//! being restored has a temporary name until it is whole.

mod codec;
mod error;
mod file;
mod load;
mod query;
mod read;
mod schema;
mod sql;
mod text;
mod types;

pub use error::DuckdbError;
pub use file::{DuckFile, FileHead, OpenOptions, TableInfo, companions, engine_version};
pub use load::{NewFile, StoredTable, checkpoint, path_of};
pub use query::{Queries, QueryTable};
pub use read::{RowRange, StoredRows, TableReader};
pub use schema::SchemaScript;

#[cfg(test)]
mod tests;

type Result<T> = std::result::Result<T, DuckdbError>;
