//! Why a verb did not do what was asked.

use crate::mistake::Mistake;

/// Why a verb did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Wrong words.
    #[error("wrong words")]
    Wrong(Mistake),
    /// A message for standard error and an exit status.
    #[error("{message}")]
    Exit {
        /// What happened; may be empty.
        message: String,
        /// Exit status.
        code: u8,
    },
    /// Anything else: exit status 1.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl Failure {
    /// A message and an exit status.
    pub(crate) fn exit(code: u8, message: impl Into<String>) -> Self {
        Self::Exit {
            message: message.into(),
            code,
        }
    }
}

impl From<Mistake> for Failure {
    fn from(mistake: Mistake) -> Self {
        Self::Wrong(mistake)
    }
}

/// Result of a verb.
pub(crate) type Outcome = Result<(), Failure>;
