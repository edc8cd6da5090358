//! Why a webhook resource cannot be read or changed.

use std::sync::Arc;

use harkara_kind::FieldError;
use harkara_queue::settings::SettingsError;
use harkara_shared::vault::VaultError;

/// Why a webhook resource cannot be had or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database refused or is not there.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The queue could not take the deliveries.
    #[error(transparent)]
    Queue(#[from] harkara_queue::Error),
    /// A stored secret cannot be opened: the master key it was sealed with is missing.
    #[error("a stored secret cannot be opened: {0}")]
    Vault(#[from] VaultError),
    /// The engine does not hold what an endpoint is set to.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// What is asked contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// What is asked does not satisfy what the tenant has registered.
    #[error("the event does not satisfy its type")]
    Invalid(Vec<FieldError>),
    /// A row holds what no release of Harkara writes.
    #[error("a stored row cannot be read: {0}")]
    Corrupt(String),
    /// Several asked together, and this is what all were told.
    #[error(transparent)]
    Shared(#[from] Arc<Error>),
}

impl Error {
    /// What the database said, if it was the database.
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
