//! Why a webhook resource cannot be read or changed.

use std::sync::Arc;

use harkara_kind::FieldError;
use harkara_queue::settings::SettingsError;
use harkara_shared::vault::VaultError;

/// Why a webhook resource cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database refused or cannot be reached.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The queue refused the deliveries.
    #[error(transparent)]
    Queue(#[from] harkara_queue::Error),
    /// A stored secret cannot be opened: the master key it was sealed with is missing.
    #[error("a stored secret cannot be opened: {0}")]
    Vault(#[from] VaultError),
    /// The queue refused an endpoint's limits.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The request conflicts with the current state.
    #[error("{0}")]
    Conflict(String),
    /// The event's data does not satisfy its registered type.
    #[error("event data does not satisfy the event's type")]
    Invalid(Vec<FieldError>),
    /// A row holds a value that no release of Harkara writes.
    #[error("a stored row cannot be read: {0}")]
    Corrupt(String),
    /// The error of a call that several callers shared.
    #[error(transparent)]
    Shared(#[from] Arc<Error>),
}

impl Error {
    /// The database error that caused this one, if any.
    #[must_use]
    pub fn database(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) | Self::Queue(harkara_queue::Error::Database(error)) => {
                Some(error)
            }
            Self::Shared(error) => error.database(),
            _ => None,
        }
    }
}
