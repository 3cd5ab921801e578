//! What stands in for DuckDB files where the program was built without DuckDB: an error that says so, and checks that are not run.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::path::Path;

use dozo_catalog::Repository;
use dozo_model::{Content, DuckdbContent, Finding, Manifest};
use dozo_store::Fetched;
use tokio_util::sync::CancellationToken;

use crate::backup::{BackupReport, Frame};
use crate::context::{Context, DuckdbSettings, SourceSettings};
use crate::restore::{FolderOptions, FolderReport};
use crate::sql::{SqlOptions, SqlReport, SqlRows};
use crate::{EngineError, Result};

fn without<T>(what: String) -> Result<T> {
    Err(EngineError::WithoutDuckdb { what })
}

/// Nobody finds any.
pub(crate) struct Found<'a>(PhantomData<&'a DuckdbSettings>);

impl<'a> Found<'a> {
    pub(crate) fn look(source: &SourceSettings, _: &'a DuckdbSettings) -> Result<Self> {
        without(format!("source {}", source.name))
    }
}

pub(crate) fn look_at(source: &SourceSettings, _: &DuckdbSettings) -> Result<Vec<(String, Result<String>)>> {
    without(format!("source {}", source.name))
}

pub(crate) async fn run(frame: &Frame<'_>, Found(_): Found<'_>) -> Result<BackupReport> {
    without(format!("source {}", frame.source.name))
}

/// An object that only DuckDB can look into.
#[derive(Clone)]
pub(crate) struct Use;

impl Use {
    pub(crate) fn tables(&self) -> Vec<String> {
        Vec::new()
    }
}

pub(crate) fn uses(manifest: &Manifest) -> HashMap<&str, Use> {
    let Content::Duckdb(_) = manifest.content else { return HashMap::new() };
    let beside = manifest.beside();
    let keys = manifest.objects.iter().map(|o| o.key.as_str()).filter(|key| !beside.contains(key));
    keys.map(|key| (key, Use)).collect()
}

pub(crate) fn decode(_: &str, _: Fetched, _: &Use, _: &CancellationToken) -> Result<(u64, Vec<Finding>)> {
    without("its rows".into())
}

pub(crate) async fn restore(
    _: &Context,
    _: &Repository,
    manifest: &Manifest,
    _: &DuckdbContent,
    _: &Path,
    _: &FolderOptions,
) -> Result<FolderReport> {
    without(format!("backup {}@{}", manifest.source, manifest.id))
}

pub(crate) async fn sql(
    _: &Context,
    _: &Repository,
    _: &Manifest,
    _: &str,
    _: &SqlOptions,
    _: impl FnMut(SqlRows<'_>) -> std::io::Result<()> + Send + 'static,
) -> Result<SqlReport> {
    without("dozo sql".into())
}
