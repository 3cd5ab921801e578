//! Writes Parquet: zstd, data page v1, encodings by the kind of column.
//!
//! Pages are version 1 because some engines read no other; timestamps are microseconds, never nanoseconds. A
//! sample of the first rows says which columns get a dictionary (`sample.rs`); the others, and those whose dictionary grows
//! too large, use DELTA_BINARY_PACKED for integers and dates and DELTA_LENGTH_BYTE_ARRAY for byte strings.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Schema, SchemaRef};
use dozo_model::Sha256Digest;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaData};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnPath;

use crate::sample::{Habit, SAMPLE_ROWS, habit};
use crate::sink::{DigestingWriter, PartSink};
use crate::{EncodeError, Result};

/// A row group ends at this many times its encoded limit in decoded bytes.
const RAW_FACTOR: usize = 16;

/// A sample ends at this many decoded bytes: wide rows tell as much in fewer.
const SAMPLE_BYTES: usize = 8 << 20;
/// Values handed to a column writer at a time.
const WRITE_BATCH: usize = 8192;

/// How a file is written.
#[derive(Debug, Clone)]
pub struct EncodeOptions {
    /// zstd level.
    pub zstd_level: i32,
    /// A row group ends at this many rows…
    pub row_group_rows: usize,
    /// … or at this many encoded bytes, whichever comes first.
    pub row_group_bytes: usize,
    /// Size of the parts that go to the sink.
    pub part_bytes: usize,
    /// Key-value metadata of the file.
    pub metadata: Vec<(String, String)>,
}

/// The row groups that hold one run of rows: first and number.
pub type RowGroups = (u32, u32);

/// What was written.
#[derive(Debug)]
pub struct Encoded {
    /// Size.
    pub bytes: u64,
    /// Digest of the bytes.
    pub sha256: Sha256Digest,
    footer: ParquetMetaData,
}

impl Encoded {
    /// Returns least and greatest value of an integer-like column (also dates and timestamps) over some row groups;
    /// `None` where a statistic is missing or every value is NULL.
    #[must_use]
    pub fn int_range(&self, column: &str, groups: RowGroups) -> Option<(i64, i64)> {
        let mut range: Option<(i64, i64)> = None;
        for group in self.footer.row_groups().iter().skip(groups.0 as usize).take(groups.1 as usize) {
            let chunk = group.columns().iter().find(|c| c.column_path().parts() == [column.to_owned()])?;
            let (min, max) = match chunk.statistics()? {
                Statistics::Int32(s) => (i64::from(*s.min_opt()?), i64::from(*s.max_opt()?)),
                Statistics::Int64(s) => (*s.min_opt()?, *s.max_opt()?),
                _ => return None,
            };
            range = Some(range.map_or((min, max), |(a, b)| (a.min(min), b.max(max))));
        }
        range
    }
}

/// Encodes the rows of one object. The seam behind which faster page encoders take their place.
pub trait TableEncoder<S>: Send {
    /// Adds rows.
    ///
    /// # Errors
    /// [`EncodeError::Closed`] when the sink is gone.
    fn write(&mut self, batch: &RecordBatch) -> Result<()>;

    /// Ends a run of rows (a chunk of one table): the next rows begin a new row group. Returns where the run lies.
    ///
    /// # Errors
    /// As [`TableEncoder::write`].
    fn end_run(&mut self) -> Result<RowGroups>;

    /// Writes the footer and returns the sink and what was written.
    ///
    /// # Errors
    /// As [`TableEncoder::write`].
    fn finish(self: Box<Self>) -> Result<(S, Encoded)>;
}

/// The general encoder: arrow-rs' column writers. It waits for a sample of rows, then chooses the encodings.
pub struct ParquetEncoder<S: PartSink> {
    state: State<S>,
    row_group_bytes: usize,
    raw_bytes: usize,
    run_start: u32,
}

enum State<S: PartSink> {
    /// Rows are collected until there are enough to choose.
    Sampling(Box<Pending<S>>),
    Writing(Box<ArrowWriter<DigestingWriter<S>>>),
    /// Only while the state changes, or after that has failed.
    Failed,
}

struct Pending<S> {
    schema: SchemaRef,
    options: EncodeOptions,
    sink: S,
    batches: Vec<RecordBatch>,
    rows: usize,
}

impl<S: PartSink> Pending<S> {
    /// Chooses the encodings and begins the file.
    fn writer(self) -> Result<ArrowWriter<DigestingWriter<S>>> {
        let level = ZstdLevel::try_new(self.options.zstd_level).map_err(EncodeError::Write)?;
        let metadata = self.options.metadata.iter().map(|(k, v)| KeyValue::new(k.clone(), v.clone())).collect();
        let mut properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .set_compression(Compression::ZSTD(level))
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_statistics_truncate_length(Some(64))
            .set_write_batch_size(WRITE_BATCH)
            .set_max_row_group_row_count(Some(self.options.row_group_rows))
            .set_created_by(concat!("dozo version ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_key_value_metadata(Some(metadata));
        for (i, field) in self.schema.fields().iter().enumerate() {
            let path = || ColumnPath::from(field.name().clone());
            if let Some(encoding) = plain_encoding(field.data_type()) {
                properties = properties.set_column_encoding(path(), encoding);
            }
            let habit = habit(&self.batches, i);
            if matches!(habit, Habit::Varies | Habit::FreeText) {
                properties = properties.set_column_dictionary_enabled(path(), false);
            }
            if matches!(habit, Habit::FreeText | Habit::FewTexts) {
                properties = properties.set_column_statistics_enabled(path(), EnabledStatistics::None);
            }
        }
        let out = DigestingWriter::new(self.sink, self.options.part_bytes);
        ArrowWriter::try_new(out, self.schema, Some(properties.build())).map_err(EncodeError::Write)
    }
}

impl<S: PartSink> ParquetEncoder<S> {
    /// Begins a file.
    ///
    /// # Errors
    /// When the zstd level is not valid.
    pub fn new(schema: &SchemaRef, options: &EncodeOptions, sink: S) -> Result<Self> {
        ZstdLevel::try_new(options.zstd_level).map_err(EncodeError::Write)?;
        let pending = Pending { schema: Arc::clone(schema), options: options.clone(), sink, batches: Vec::new(), rows: 0 };
        let state = State::Sampling(Box::new(pending));
        Ok(Self { state, row_group_bytes: options.row_group_bytes, raw_bytes: 0, run_start: 0 })
    }

    /// Returns the writer; whatever was sampled is written first.
    fn writer(&mut self) -> Result<&mut ArrowWriter<DigestingWriter<S>>> {
        if let State::Sampling(_) = self.state
            && let State::Sampling(mut pending) = std::mem::replace(&mut self.state, State::Failed)
        {
            let batches = std::mem::take(&mut pending.batches);
            let pending = Pending { batches, ..*pending };
            let sampled = pending.batches.clone();
            self.state = State::Writing(Box::new(pending.writer()?));
            for batch in sampled {
                self.put(&batch)?;
            }
        }
        match &mut self.state {
            State::Writing(writer) => Ok(writer),
            State::Sampling(_) | State::Failed => Err(EncodeError::Closed),
        }
    }

    fn put(&mut self, batch: &RecordBatch) -> Result<()> {
        let State::Writing(writer) = &mut self.state else { return Err(EncodeError::Closed) };
        writer.write(batch).map_err(write_error)?;
        self.raw_bytes += batch.get_array_memory_size();
        // Rows that compress well must not make a group that nobody can hold once it is decoded.
        if writer.in_progress_size() >= self.row_group_bytes || self.raw_bytes >= RAW_FACTOR * self.row_group_bytes {
            writer.flush().map_err(write_error)?;
            self.raw_bytes = 0;
        }
        Ok(())
    }
}

impl<S: PartSink> TableEncoder<S> for ParquetEncoder<S> {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if let State::Sampling(pending) = &mut self.state {
            pending.rows += batch.num_rows();
            self.raw_bytes += batch.get_array_memory_size();
            pending.batches.push(batch.clone());
            if pending.rows < SAMPLE_ROWS && self.raw_bytes < SAMPLE_BYTES {
                return Ok(());
            }
            self.raw_bytes = 0;
            return self.writer().map(drop);
        }
        self.put(batch)
    }

    fn end_run(&mut self) -> Result<RowGroups> {
        let writer = self.writer()?;
        writer.flush().map_err(write_error)?;
        let end = u32::try_from(writer.flushed_row_groups().len()).unwrap_or(u32::MAX);
        self.raw_bytes = 0;
        let first = self.run_start;
        self.run_start = end;
        Ok((first, end - first))
    }

    fn finish(mut self: Box<Self>) -> Result<(S, Encoded)> {
        let writer = self.writer()?;
        let footer = writer.finish().map_err(write_error)?;
        let out = writer.inner_mut();
        let (sink, hasher, bytes) = out.close().map_err(|_| EncodeError::Closed)?;
        Ok((sink, Encoded { bytes, sha256: hasher.finish(), footer }))
    }
}

fn write_error(error: ParquetError) -> EncodeError {
    if let ParquetError::External(source) = &error
        && source.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    {
        return EncodeError::Closed;
    }
    EncodeError::Write(error)
}

/// The encoding where a dictionary does not pay, from the start or later; `None` = PLAIN.
fn plain_encoding(t: &DataType) -> Option<Encoding> {
    match t {
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Date32
        | DataType::Time64(_)
        | DataType::Timestamp(..) => Some(Encoding::DELTA_BINARY_PACKED),
        // An integer in Parquet.
        DataType::Decimal128(precision, _) if *precision <= 18 => Some(Encoding::DELTA_BINARY_PACKED),
        DataType::Utf8 | DataType::Binary | DataType::LargeUtf8 | DataType::LargeBinary => {
            Some(Encoding::DELTA_LENGTH_BYTE_ARRAY)
        }
        // Booleans, floats, wide decimals, and what has several leaf columns.
        _ => None,
    }
}

/// Tells whether two schemas have the same columns, whatever their metadata.
pub(crate) fn same_columns(a: &Schema, b: &Schema) -> bool {
    a.fields().len() == b.fields().len()
        && a.fields().iter().zip(b.fields()).all(|(a, b)| a.name() == b.name() && a.data_type().equals_datatype(b.data_type()))
}
