//! The error of the engine's operations.

use harkara_shared::id::JobId;

/// Why an operation of the engine failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database refused the statement or could not be reached.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A part of a job could not be encoded as JSON.
    #[error("could not encode the job as JSON: {0}")]
    Encode(#[from] serde_json::Error),
    /// A stored row holds a value that no release of Harkara writes.
    #[error("stored row of job {job} is corrupt: {reason}")]
    Corrupt {
        /// The job's id in its numeric form.
        job: i64,
        /// The unexpected value.
        reason: String,
    },
    /// The holder of a unique key kept changing while a job tried to take the key.
    #[error("unique key `{0}` is contended; try again")]
    Contended(String),
    /// The tenant has as many waiting jobs as its `max_waiting` allows.
    #[error(
        "{waiting} jobs are waiting, at most {limit} may wait (`max_waiting`); \
         try again after some have run"
    )]
    DepthQuota {
        /// The tenant's `max_waiting`.
        limit: u64,
        /// Waiting jobs, those of the refused request not counted.
        waiting: u64,
    },
}

impl Error {
    /// A stored row of `job` that holds an impossible value.
    pub(crate) fn corrupt(job: JobId, reason: impl ToString) -> Self {
        Self::Corrupt {
            job: job.as_i64(),
            reason: reason.to_string(),
        }
    }
}
