//! The one error type. A message names the thing, what was expected and got, and what to do.

use std::path::PathBuf;

/// What every fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A `.goss` file is not one, is damaged, or was made by a newer gossamer.
    #[error("{0}")]
    Format(String),
    /// An array's rank, size or dtype is not what the model takes, or an index in it is out of range.
    #[error("{0}")]
    Shape(String),
    /// A graph was described that cannot be built: unknown op, wrong arity, attribute out of range.
    #[error("{0}")]
    Graph(String),
    /// A run would need more memory than it may use.
    #[error("{0}")]
    Memory(String),
    /// A tier was asked for by a name that is none, or that this processor does not have.
    #[error("{0}")]
    Isa(String),
    /// The file system refused.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Returns early with [`Error::$kind`] and a formatted message unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $kind:ident, $($message:tt)+) => {
        if !$condition {
            return Err($crate::error::Error::$kind(format!($($message)+)));
        }
    };
}
pub(crate) use ensure;
