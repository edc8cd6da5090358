//! What the caller of an enqueue passes and receives: whether the quota applies, and a receipt for each job.

use chrono::{DateTime, Utc};
use harkara_shared::id::{JobId, TenantId};

use crate::job::{Enqueued, Job, JobState, Lane, NewJob};

/// Whether the tenant's bound of waiting jobs (`max_waiting`) applies to an enqueue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// It applies: for jobs that a client requests.
    Enforce,
    /// It does not: for jobs that follow from jobs already accepted, and for the platform's own.
    Skip,
}

/// The outcome for one enqueued job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The new job, or the existing one that holds its unique key.
    pub job: Enqueued,
    /// The initial state of a new job; `None` for an existing one.
    pub inserted: Option<Inserted>,
}

/// The state in which a new job entered its queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inserted {
    /// When the job was enqueued, by the database's clock.
    pub created_at: DateTime<Utc>,
    /// When the job is due.
    pub run_at: DateTime<Utc>,
    /// Ready or scheduled.
    pub state: JobState,
}

impl Inserted {
    /// The new job as the read side would return it.
    #[must_use]
    pub fn into_job(self, id: JobId, tenant: TenantId, job: NewJob) -> Job {
        Job {
            id,
            tenant_id: tenant,
            kind: job.kind,
            queue: job.queue,
            state: self.state,
            priority: job.priority,
            attempt: 0,
            max_attempts: job.max_attempts,
            run_at: self.run_at,
            expires_at: job.expires_at,
            created_at: self.created_at,
            started_at: None,
            finished_at: None,
            unique_key: job.unique.map(|unique| unique.key),
            ordering_key: match job.lane {
                Lane::Ordered(key) => Some(key),
                Lane::Default | Lane::Named(_) => None,
            },
            tags: job.tags,
            payload: job.payload,
            result: None,
            progress: None,
            last_error: None,
            trace: job.trace,
        }
    }
}
