//! Why settings were not changed.

use super::limit::{InvalidLimit, MAX_TENANT_LIMITS};
use crate::error;

/// Why settings were not changed.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The queue does not exist.
    #[error("queue not found")]
    QueueNotFound,
    /// A limit is incomplete: a burst or a period without a rate, or a rate without a period.
    #[error("`{}` {}", problem.field(), problem.reason())]
    InvalidLimit {
        /// The limit's key; `None` for the limit of a queue, a tenant or a lane.
        key: Option<String>,
        /// What is wrong.
        problem: InvalidLimit,
    },
    /// The tenant would have limits for more than [`MAX_TENANT_LIMITS`] keys.
    #[error("a tenant can have at most {MAX_TENANT_LIMITS} limits")]
    TooManyLimits,
    /// A statement failed, or a stored row holds an impossible value.
    #[error(transparent)]
    Engine(#[from] error::Error),
}

impl From<sqlx::Error> for SettingsError {
    fn from(error: sqlx::Error) -> Self {
        Self::Engine(error.into())
    }
}
