//! What every verb is given: who listens, what time it is, when to stop, and resolved settings.

use std::sync::Arc;
use std::time::Duration;

use dozo_catalog::Repository;
use dozo_model::{ByteSize, Clock, Operator, Progress, SourceName};
use dozo_postgres::{ToolChoice, UrlRef};
use dozo_store::{Store, StoreOptions};
use tokio_util::sync::CancellationToken;

use crate::Result;

/// Given to every verb.
#[derive(Clone)]
pub struct Context {
    /// Who listens.
    pub progress: Arc<dyn Progress>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// When to stop.
    pub cancel: CancellationToken,
    /// Who runs it.
    pub operator: Operator,
}

/// `[repository]`, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositorySettings {
    /// URL.
    pub url: String,
    /// Settings of the store.
    pub store: StoreOptions,
    /// Folder that relative paths count from.
    pub base: std::path::PathBuf,
}

impl RepositorySettings {
    /// Checks the form of the URL.
    ///
    /// # Errors
    /// When it is wrong.
    pub fn check_url(&self) -> Result<()> {
        Ok(Store::check_url(&self.url)?)
    }

    /// Opens the store, without looking at it.
    ///
    /// # Errors
    /// When the URL or a setting is wrong.
    pub fn store(&self) -> Result<Store> {
        Ok(Store::open(&self.url, &self.store, &self.base)?)
    }

    /// Opens an existing repository.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub async fn open(&self) -> Result<Repository> {
        Ok(Repository::open(self.store()?).await?)
    }
}

/// `[source.NAME]`, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSettings {
    /// Name.
    pub name: SourceName,
    /// Where the connection text comes from.
    pub url: UrlRef,
    /// Tables to take; empty = all.
    pub include: Vec<String>,
    /// Tables to leave out.
    pub exclude: Vec<String>,
    /// Client programs.
    pub pg_tools: ToolChoice,
    /// Connections on the snapshot.
    pub workers: usize,
    /// Memory for all workers together.
    pub memory: ByteSize,
    /// How long to wait for a lock.
    pub lock_timeout: Duration,
    /// zstd level.
    pub zstd_level: i32,
    /// Time zone of the policy.
    pub time_zone: String,
}
