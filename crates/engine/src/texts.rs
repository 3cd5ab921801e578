//! Objects that hold the rows of a table as texts (`csv.gz`, `sql.gz`): read back for a restore, a check or a comparison.

use std::io::Read as _;

use dozo_model::{Algorithm, Compression, Dataset, Fingerprint, Part, RowDigester};
use dozo_postgres::{CopyForm, PrintedRows, Unframed};
use dozo_store::ObjectData;
use tokio_util::sync::CancellationToken;

use crate::{EngineError, Result, stored};

/// Bytes that are decompressed at a time.
const PIECE: usize = 256 << 10;

/// Gives `each` the bytes of the rows, cut anywhere.
///
/// # Errors
/// [`EngineError::Damaged`] when the object is no such file; [`EngineError::Cancelled`]; what `each` says.
pub(crate) fn bytes(
    data: ObjectData,
    dataset: &Dataset,
    part: &Part,
    cancel: &CancellationToken,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut input = stored::reader(&part.object, data, Compression::Gzip)?;
    let mut unframed = Unframed::new(dataset.format, part.blocks.from == 0);
    let mut buffer = vec![0; PIECE];
    loop {
        if cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let n =
            input.read(&mut buffer).map_err(|e| EngineError::Damaged { object: part.object.clone(), reason: e.to_string() })?;
        if n == 0 {
            break;
        }
        unframed.add(&buffer[..n], each)?;
    }
    Ok(unframed.end()?)
}

/// Gives `each` the rows, some at a time; what it does not [`PrintedRows::clear`] stays.
///
/// # Errors
/// As [`bytes()`]; when a row is none of the table's.
pub(crate) fn rows(
    data: ObjectData,
    dataset: &Dataset,
    part: &Part,
    cancel: &CancellationToken,
    each: &mut dyn FnMut(&mut PrintedRows) -> Result<()>,
) -> Result<()> {
    let mut printed = PrintedRows::new(&dataset.columns, CopyForm::of(dataset.format));
    bytes(data, dataset, part, cancel, &mut |bytes| {
        printed.add(bytes)?;
        each(&mut printed)
    })?;
    Ok(printed.end()?)
}

/// Computes the fingerprint of what an object holds.
///
/// # Errors
/// As [`rows`].
pub(crate) fn fingerprint(data: ObjectData, dataset: &Dataset, part: &Part, cancel: &CancellationToken) -> Result<Fingerprint> {
    let mut digester = RowDigester::new(Algorithm::of(&dataset.columns));
    rows(data, dataset, part, cancel, &mut |printed| {
        printed.digest(&mut digester);
        Ok(())
    })?;
    Ok(digester.take())
}
