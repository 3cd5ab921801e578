//! What a caller can decide from an error: its class (retry, exit code), its code, and the next step.

/// Says what a caller can do about an error. Drives retries and the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// Flags, configuration or a name that matches nothing: the person changes what was asked. Exit 2.
    Input,
    /// What was named does not exist, or the work failed for a lasting reason. Exit 1.
    Failed,
    /// Stored bytes are not what a manifest says. Exit 3.
    Integrity,
    /// Somebody else holds the lease, or won a race. Exit 5.
    Conflict,
    /// The same call may go through later. Exit 1 when retries are used up.
    Transient,
    /// The person or the first error of another worker stopped the work. Exit 130.
    Cancelled,
    /// A bug in dozo. Exit 70.
    Internal,
}

impl ErrorClass {
    /// Returns the process exit code for an error of this class (`docs/errors.md`).
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Input => 2,
            Self::Failed | Self::Transient => 1,
            Self::Integrity => 3,
            Self::Conflict => 5,
            Self::Cancelled => 130,
            Self::Internal => 70,
        }
    }
}

/// An error that explains itself: class, stable code, next step. The `Display` text says what failed on
/// which object; `source()` says why.
pub trait Explain: std::error::Error {
    /// Returns the class.
    fn class(&self) -> ErrorClass;
    /// Returns the stable code (`DOZO-E2103`).
    fn code(&self) -> &'static str;
    /// Returns the next step: one command or one action.
    fn next(&self) -> Option<String> {
        None
    }
}
