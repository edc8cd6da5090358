//! Verdicts that handlers of several domains return.

use std::time::Duration;

use harkara_queue::Verdict;
use harkara_queue::job::JobError;
use harkara_shared::database::is_unavailable;

/// The verdict on a database error in a handler. While the database is unreachable the job is put off without
/// using up an attempt: the job did not cause the failure.
#[must_use]
pub fn database_verdict(error: &sqlx::Error) -> Verdict {
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
