//! Postgres: connect, look, lock, read rows out, load rows back, and the SQL that proves both.
//!
//! Place in the flow: the source of a backup and the sink of a restore. It is the only crate that names
//! `tokio-postgres`. *Ordering*: locks first, snapshot second ([`Coordinator`]); every worker locks for itself
//! ([`SnapshotWorker`]). *Invariants*: settings are pinned on every connection ([`Session`]), every value comes back bit
//! for bit ([`RowDecoder`], [`RowEncoder`]), no password reaches a log, an argument or an error. *Memory*: one block of
//! rows per worker.

mod archive;
mod canary;
mod chunks;
mod codec;
mod compare;
mod conninfo;
mod copy;
mod database;
mod definitions;
mod doctor;
mod duckdb_sql;
mod error;
mod framed;
mod grants;
mod inspect;
mod inventory;
mod large;
mod loader;
mod merge;
mod printed;
mod reader;
mod rewrite;
mod scratch;
mod script;
mod session;
mod shape;
mod snapshot;
mod sql;
mod target;
mod tls;
mod token;
mod tools;
mod types;
mod watch;
mod wire;

pub use archive::{
    Along, Attach, Check, Grants, Holder, KeyKind, LEDGER_SCHEMA, Leave, LedgerDetails, LedgerRow, LedgerState, Moved, Obstacles,
    Partition, Place, QUARANTINE, Quarantined, Referring, Removal, Tree, announce, attach_again, backend_pid, bytes_of,
    cancel_backend, checks_of, checks_of_name, columns_now, concurrently, data_folder, default_of, drop_quarantined,
    forget_announced, forget_if_attached, holders, is_alone, is_pending, leave, ledger_rows, ledger_says, like_sibling,
    obstacles, oid_of, own_keys_of, partman_manages, place_of, prepare_ledger, referring_rows, restore_is_open, rows_outside,
    rows_where, tables_of, tree, try_run_lock,
};
pub use canary::{
    ask, canary_name, comment_database, commented_databases, cut_off, drop_database, make_roles, newest, write_canary,
};
pub use chunks::{ChunkLimits, Piece, Planned, Unit, plan_units};
pub use codec::{EXACT_COLUMN, RowDecoder, RowEncoder, WireError, arrow_schema, tuple_texts};
pub use compare::{KeyedRow, bucket_of};
pub use conninfo::{ConnInfo, SslMode, UrlRef};
pub use copy::RowBlock;
pub use database::{database_facts, database_statements, subscription_statements};
pub use definitions::{Definitions, Made, left_out, unsupported};
pub use doctor::{LockBudget, lock_budget, missing_grants, suggest_tables};
pub use duckdb_sql::{copy_text_into, exact_only_through_dozo, text_from_parquet};
pub use error::{Loss, PgError, UnsupportedColumn};
pub use framed::{Frame, Unframed, copy_csv_into, names_relations};
pub use inspect::{
    DatabaseInfo, SequenceInfo, TableInfo, databases, dependents, materialized_views, partition_keys, primary_keys, roles,
    sequence_values, sequences, tables, visible_user_mappings,
};
pub use inventory::{lacking, table_definitions};
pub use large::{
    LARGE_OBJECT_PIECE, LargeObjectCensus, large_object_columns, large_object_statements, large_objects, large_objects_name,
};
pub use loader::{LoadTable, LoadWorker};
pub use merge::{LiveTable, MergeMode, MergeTable, Merged};
pub use printed::{LEAST_INTERVAL, PrintedRows};
pub use reader::{LockedTable, RowSource, SnapshotWorker, TextReader};
pub use rewrite::{Renames, rewrite_entry};
pub use scratch::{Scratch, ScratchOptions, ServerPrograms, ServerUser, end_server_of};
pub use script::{Entry, SchemaScript, Section};
pub use session::{ServerFacts, Session};
pub use shape::{key_range, shape_digest};
pub use snapshot::Coordinator;
pub use sql::{
    CopyForm, NO_ENCODING, RowSet, client_encoding, dataset_fingerprint_sql, fingerprint, fingerprint_settings, fingerprint_sql,
};
pub use target::{RestoreTarget, TargetState, TargetTable};
pub use token::{TokenShape, token_shapes};
pub use tools::{ClientEnvironment, PgTools, ToolChoice};
pub use types::{TypeCatalog, TypeOptions, columns};
pub use watch::{Replica, Waiting, replicas, waiting_behind};
