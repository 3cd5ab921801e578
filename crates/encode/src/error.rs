//! Encode errors, by what the caller can do.

use dozo_model::{ErrorClass, Explain};
use parquet::errors::ParquetError;

/// Why a file was not written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A batch could not be written.
    #[error("cannot encode Parquet")]
    Write(#[source] ParquetError),
    /// A block could not be compressed.
    #[error("cannot compress")]
    Compress(#[source] std::io::Error),
    /// The uploader stopped; its error tells why.
    #[error("the upload stopped")]
    Closed,
    /// The bytes are no Parquet file, or a damaged one.
    #[error("cannot decode Parquet")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The file is intact but holds other columns than the manifest says.
    #[error("the file holds other columns: {0}")]
    Schema(String),
    /// The file has fewer row groups than the manifest names.
    #[error("the file has {found} row groups, the manifest names {first} to {last}")]
    RowGroups {
        /// In the file.
        found: usize,
        /// First one named.
        first: u32,
        /// Last one named.
        last: u32,
    },
}

impl Explain for EncodeError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Write(_) | Self::Compress(_) => ErrorClass::Internal,
            Self::Closed => ErrorClass::Cancelled,
            Self::Read(_) | Self::Schema(_) | Self::RowGroups { .. } => ErrorClass::Integrity,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Write(_) => "DOZO-E4001",
            Self::Closed => "DOZO-E4002",
            Self::Read(_) => "DOZO-E4003",
            Self::Schema(_) => "DOZO-E4004",
            Self::RowGroups { .. } => "DOZO-E4005",
            Self::Compress(_) => "DOZO-E4006",
        }
    }

    fn next(&self) -> Option<String> {
        match self.class() {
            ErrorClass::Integrity => Some("dozo verify".into()),
            _ => None,
        }
    }
}
