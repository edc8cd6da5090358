//! One module a kind.

pub mod audit_anchor;
pub mod http_request;
pub mod maintenance_access_expiry;
pub mod maintenance_retention;
pub mod maintenance_usage_reset;
pub mod retry_redrive;
pub mod tenant_erase;
pub mod webhook_deliver;

use harkara_queue::Verdict;
use harkara_queue::job::JobError;
use harkara_shared::database::is_unavailable;
use std::time::Duration;

/// The verdict on a database error in a handler: the job is put off without using up an attempt
/// while the database is away, because that is no fault of the job's.
pub(crate) fn database_verdict(error: &sqlx::Error) -> Verdict {
    let reason = JobError::new("database", error.to_string());
    if is_unavailable(error) {
        Verdict::Snooze {
            wait: Duration::from_secs(1),
            reason,
        }
    } else {
        Verdict::retry(reason, None)
    }
}
