//! Parquet: record batches in, objects out, and back; and compressed streams of bytes.
//!
//! Place in the flow: source → **encode** → store. It is the only crate that names `parquet`, `zstd` and gzip. The core is
//! synchronous: the calling thread encodes, digests what it emits, and hands finished parts to a [`PartSink`].
//! *Memory*: one row group in its encoded form and one part.

mod blocks;
mod error;
mod reader;
mod sample;
mod sink;
mod writer;

pub use blocks::{BlockWriter, Compressed, decompress};
pub use error::EncodeError;
pub use reader::{ParquetInput, ParquetReader};
pub use sink::{PartSink, SinkClosed};
pub use writer::{EncodeOptions, Encoded, ParquetEncoder, RowGroups, TableEncoder};

type Result<T> = std::result::Result<T, EncodeError>;
