//! Nightly removal of the rows that a domain keeps for a tenant.
//!
//! `maintenance.retention` calls every domain's clean-up for each tenant before it removes old jobs, so that a
//! domain can read the outcome of a job while its row still exists.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use harkara_queue::Retention;
use harkara_shared::id::TenantId;

/// Why a clean-up failed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// The database refused or cannot be reached.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl From<harkara_queue::Error> for CleanupError {
    fn from(error: harkara_queue::Error) -> Self {
        match error {
            harkara_queue::Error::Database(error) => Self::Database(error),
            other => Self::Other(other.to_string()),
        }
    }
}

/// Rows removed, in the order of [`TenantCleanup::count_names`].
pub type RemovedRows = Vec<u64>;

/// Removes the rows that one domain keeps for a tenant, once their retention has passed.
pub trait TenantCleanup: Debug + Send + Sync + 'static {
    /// Names of the counts in the job's result.
    fn count_names(&self) -> &'static [&'static str];

    /// Removes a tenant's old rows and returns how many, one number for each name of
    /// [`count_names`](Self::count_names).
    fn clean_up(
        &self,
        tenant: TenantId,
        keep: &Retention,
    ) -> Pin<Box<dyn Future<Output = Result<RemovedRows, CleanupError>> + Send + '_>>;
}
