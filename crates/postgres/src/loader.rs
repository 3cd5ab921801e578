//! A worker's end of a restore: COPY BINARY in, and SQL, each in one transaction with its row of progress.
//!
//! *Crash behaviour*: rows and the note that they are there commit together, so a restore that is started again knows
//! exactly what it has. A worker holds a shared advisory lock; the next run waits until no worker of a killed one is left.

use bytes::Bytes;
use dozo_model::{BlockRange, Column, QualifiedName};
use futures::SinkExt;
use tokio::runtime::Runtime;
use tokio_postgres::CopyInSink;
use tokio_util::sync::CancellationToken;

use crate::conninfo::ConnInfo;
use crate::copy::SIGNATURE;
use crate::error::{PgError, query_error};
use crate::large::large_objects_from_stage;
use crate::session::Session;
use crate::sql::{self, CopyForm, RowSet};
use crate::target::{PROGRESS_INSERT, TargetTable, WORKER_LOCK};

/// Bytes in one CopyData message.
const FRAME: usize = 512 << 10;

/// Makes a runtime for one connection on the calling thread.
fn current_thread() -> Result<Runtime, PgError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| PgError::Lost { what: "starting a worker".into(), source: e.into() })
}

/// A table that is filled.
#[derive(Debug, Clone, Copy)]
pub struct LoadTable<'a> {
    /// Name in the target.
    pub name: &'a QualifiedName,
    /// Columns as they are stored.
    pub columns: &'a [Column],
    /// As the target has it.
    pub live: &'a TargetTable,
    /// What is fed.
    pub form: CopyForm,
}

/// A table that stands between for the time of a transaction.
struct Stage {
    create: String,
    /// Moves everything to where it belongs.
    empty: String,
}

/// One connection that loads.
#[derive(Debug)]
pub struct LoadWorker {
    runtime: Runtime,
    session: Session,
    cancel: CancellationToken,
    buffer: Vec<u8>,
}

impl LoadWorker {
    /// Connects; `role` is taken on before anything is made.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub fn start(info: &ConnInfo, role: Option<&str>, cancel: CancellationToken) -> Result<Self, PgError> {
        let runtime = current_thread()?;
        let session = runtime.block_on(async {
            let session = Session::connect_as(info, "dozo restore worker").await?;
            session.batch("joining the restore", sql::RAW_ENCODING).await?;
            session.batch("joining the restore", &format!("SELECT pg_advisory_lock_shared({WORKER_LOCK})")).await?;
            if let Some(role) = role {
                session.batch("taking the role", &format!("SET ROLE {}", dozo_model::quote_ident(role))).await?;
            }
            Ok::<_, PgError>(session)
        })?;
        Ok(Self { runtime, session, cancel, buffer: Vec::with_capacity(FRAME + (64 << 10)) })
    }

    /// Loads rows: `feed` is called with a function that takes one tuple at a time (of texts: any bytes). Commits with the progress
    /// row `item`. Where columns of the binary form travel as text, rows go through a stage, out of which the server reads them into the types of the table's
    /// own columns; large objects are made out of a stage, too.
    ///
    /// # Errors
    /// What `feed` or the server says; then nothing of it is there.
    pub fn load<E: From<PgError>>(
        &mut self,
        into: &LoadTable<'_>,
        item: &str,
        feed: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E>,
    ) -> Result<u64, E> {
        let LoadTable { name: table, columns, live, form } = *into;
        let what = format!("loading {table}");
        let (runtime, session, cancel, buffer) = (&self.runtime, &self.session, &self.cancel, &mut self.buffer);
        let stage = if live.rows == RowSet::LargeObjects {
            Some(Stage {
                create: "CREATE TEMPORARY TABLE dozo_stage (loid oid, at bigint, data bytea) ON COMMIT DROP".into(),
                empty: large_objects_from_stage(sql::STAGE),
            })
        } else if sql::needs_stage(columns, form) {
            let empty = sql::insert_from_stage(table, columns, &live.columns)?;
            Some(Stage { create: sql::create_stage(table, columns), empty })
        } else {
            None
        };
        let started: Result<_, PgError> = runtime.block_on(async {
            session.batch(&what, "BEGIN").await?;
            let into = if stage.is_some() { sql::STAGE.to_owned() } else { table.sql() };
            if let Some(stage) = &stage {
                session.batch(&what, &stage.create).await?;
            }
            let sink: CopyInSink<Bytes> =
                session.client().copy_in(&sql::copy_in(&into, columns, form)).await.map_err(|e| query_error(&what, e))?;
            Ok(Box::pin(sink))
        });
        let mut sink = match started {
            Ok(sink) => sink,
            Err(e) => {
                let _ = runtime.block_on(session.batch(&what, "ROLLBACK"));
                return Err(e.into());
            }
        };
        buffer.clear();
        if form == CopyForm::Binary {
            buffer.extend_from_slice(SIGNATURE);
            buffer.extend_from_slice(&[0; 8]);
        }
        let fed = feed(&mut |tuple| {
            buffer.extend_from_slice(tuple);
            if buffer.len() < FRAME {
                return Ok(());
            }
            // A message of the protocol ends below 1 GB; a row may come close to it.
            for frame in buffer.chunks(2 * FRAME) {
                let frame = Bytes::copy_from_slice(frame);
                runtime.block_on(async {
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => Err(PgError::Cancelled),
                        sent = sink.send(frame) => sent.map_err(|e| query_error(&what, e)),
                    }
                })?;
            }
            buffer.clear();
            Ok(())
        });
        if let Err(error) = fed {
            // Dropping the sink ends the COPY with a failure; the transaction is rolled back.
            drop(sink);
            let _ = runtime.block_on(session.batch(&what, "ROLLBACK"));
            return Err(error);
        }
        if form == CopyForm::Binary {
            buffer.extend_from_slice(&(-1i16).to_be_bytes());
        }
        let last = Bytes::copy_from_slice(buffer);
        let ending = async {
            sink.send(last).await.map_err(|e| query_error(&what, e))?;
            let rows = sink.as_mut().finish().await.map_err(|e| query_error(&what, e))?;
            if let Some(stage) = &stage {
                session.batch(&what, &stage.empty).await?;
            }
            session.client().execute(PROGRESS_INSERT, &[&item]).await.map_err(|e| query_error(&what, e))?;
            session.batch(&what, "COMMIT").await?;
            Ok(rows)
        };
        let done: Result<u64, PgError> = runtime.block_on(async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(PgError::Cancelled),
                done = ending => done,
            }
        });
        // A cancelled connection is still at work: it is dropped, and the server rolls back.
        if done.as_ref().is_err_and(|e| !matches!(e, PgError::Cancelled)) {
            let _ = runtime.block_on(session.batch(&what, "ROLLBACK"));
        }
        Ok(done?)
    }

    /// Runs statements and commits them with the progress row `item`. A deadlock with another worker is tried again.
    ///
    /// # Errors
    /// What the server says; then nothing of it is there.
    pub fn run(&mut self, what: &str, sql: &str, item: &str) -> Result<(), PgError> {
        let (session, cancel) = (&self.session, &self.cancel);
        self.runtime.block_on(async {
            loop {
                let work = async {
                    session.batch(what, "BEGIN; SET LOCAL lc_monetary = DEFAULT").await?;
                    session.batch(what, sql).await?;
                    session.client().execute(PROGRESS_INSERT, &[&item]).await.map_err(|e| query_error(what, e))?;
                    session.batch(what, "COMMIT").await
                };
                let done = tokio::select! {
                    biased;
                    () = cancel.cancelled() => return Err(PgError::Cancelled),
                    done = work => done,
                };
                match done {
                    Ok(()) => return Ok(()),
                    Err(e) => {
                        session.batch(what, "ROLLBACK").await?;
                        if !matches!(&e, PgError::Query { sqlstate, .. } if sqlstate == "40P01") {
                            return Err(e);
                        }
                    }
                }
            }
        })
    }

    /// Runs a query on this worker's thread.
    ///
    /// # Errors
    /// What the server says, or [`PgError::Cancelled`].
    pub fn fingerprint(&mut self, table: &LoadTable<'_>) -> Result<dozo_model::Fingerprint, PgError> {
        let rows = table.live.rows.rows(BlockRange { from: 0, to: None });
        let (session, cancel) = (&self.session, &self.cancel);
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(PgError::Cancelled),
                done = sql::fingerprint_of(session, table.name, table.columns, rows) => done,
            }
        })
    }
}
