//! Reads Parquet back, row group by row group, after checking that it holds the columns that were expected.
//!
//! A damaged file is an error, never a panic: decoding runs inside `catch_unwind`, because the bytes come from a
//! store and the decoder is large.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::reader::{ChunkReader, Length};

use crate::writer::{RowGroups, same_columns};
use crate::{EncodeError, Result};

/// Where the bytes are.
#[derive(Debug)]
pub enum ParquetInput {
    /// In memory.
    Memory(Bytes),
    /// In a file that nobody else reads through the same handle.
    File(File),
}

impl Length for ParquetInput {
    fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => Length::len(bytes),
            Self::File(file) => Length::len(file),
        }
    }
}

impl ChunkReader for ParquetInput {
    type T = Box<dyn std::io::Read + Send>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(match self {
            Self::Memory(bytes) => Box::new(bytes.get_read(start)?),
            Self::File(file) => Box::new(file.get_read(start)?),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        match self {
            Self::Memory(bytes) => bytes.get_bytes(start, length),
            Self::File(file) => file.get_bytes(start, length),
        }
    }
}

impl ParquetInput {
    fn share(&self) -> std::io::Result<Self> {
        Ok(match self {
            Self::Memory(bytes) => Self::Memory(bytes.clone()),
            Self::File(file) => Self::File(file.try_clone()?),
        })
    }
}

/// An opened file.
#[derive(Debug)]
pub struct ParquetReader {
    input: ParquetInput,
    metadata: ArrowReaderMetadata,
}

impl ParquetReader {
    /// Opens a file and compares its columns with `expected`.
    ///
    /// # Errors
    /// [`EncodeError::Read`] or [`EncodeError::Schema`].
    pub fn open(input: ParquetInput, expected: &SchemaRef) -> Result<Self> {
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Skip);
        let metadata = guarded(|| ArrowReaderMetadata::load(&input, options))?;
        if !same_columns(metadata.schema(), expected) {
            let names = |s: &SchemaRef| {
                s.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect::<Vec<_>>().join(", ")
            };
            return Err(EncodeError::Schema(format!("{} instead of {}", names(metadata.schema()), names(expected))));
        }
        Ok(Self { input, metadata })
    }

    /// Returns the rows of some row groups, in batches of at most `batch_rows`.
    ///
    /// # Errors
    /// [`EncodeError::RowGroups`] when the file has fewer; [`EncodeError::Read`] also while iterating.
    pub fn rows(&self, groups: RowGroups, batch_rows: usize) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
        let found = self.metadata.metadata().num_row_groups();
        let end = groups.0.saturating_add(groups.1);
        if end as usize > found {
            return Err(EncodeError::RowGroups { found, first: groups.0, last: end.saturating_sub(1) });
        }
        let input = self.input.share().map_err(|e| EncodeError::Read(e.into()))?;
        let reader = guarded(|| {
            ParquetRecordBatchReaderBuilder::new_with_metadata(input, self.metadata.clone())
                .with_row_groups((groups.0 as usize..end as usize).collect())
                .with_batch_size(batch_rows)
                .build()
        })?;
        Ok(Batches { reader: Some(reader) })
    }
}

struct Batches {
    reader: Option<ParquetRecordBatchReader>,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let reader = self.reader.as_mut()?;
        let next = guarded(|| reader.next().transpose()).transpose();
        if !matches!(next, Some(Ok(_))) {
            self.reader = None;
        }
        next
    }
}

fn guarded<T, E: std::error::Error + Send + Sync + 'static>(work: impl FnOnce() -> std::result::Result<T, E>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(EncodeError::Read(error.into())),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(EncodeError::Read(text.unwrap_or_else(|| "the decoder gave up".into()).into()))
        }
    }
}

#[cfg(test)]
mod tests;
