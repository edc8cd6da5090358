//! The filter arguments that `job ls` and `job bulk` share.

use chrono::{DateTime, Utc};
use clap::Args;
use harkara_queue::job::JobState;
use harkara_queue::read::JobFilter;

/// Which jobs to select; all given conditions must hold.
#[derive(Debug, Clone, Args)]
pub(crate) struct JobFilterArgs {
    /// State: scheduled, ready, running, succeeded, dead or cancelled
    #[arg(long, value_parser = parse_state)]
    state: Option<JobState>,
    /// Kind of the job
    #[arg(long)]
    kind: Option<String>,
    /// Queue of the job
    #[arg(long)]
    queue: Option<String>,
    /// A tag of the job
    #[arg(long)]
    tag: Option<String>,
    /// Unique key of the job
    #[arg(long)]
    unique_key: Option<String>,
    /// Ordering key of the job
    #[arg(long)]
    ordering_key: Option<String>,
    /// Enqueued at or after this time (RFC 3339)
    #[arg(long)]
    created_after: Option<DateTime<Utc>>,
    /// Enqueued before this time (RFC 3339)
    #[arg(long)]
    created_before: Option<DateTime<Utc>>,
    /// Code of the job's last error
    #[arg(long)]
    error_code: Option<String>,
}

impl From<JobFilterArgs> for JobFilter {
    fn from(filter: JobFilterArgs) -> Self {
        Self {
            state: filter.state,
            kind: filter.kind,
            queue: filter.queue,
            tag: filter.tag,
            unique_key: filter.unique_key,
            ordering_key: filter.ordering_key,
            created_after: filter.created_after,
            created_before: filter.created_before,
            error_code: filter.error_code,
        }
    }
}

fn parse_state(text: &str) -> Result<JobState, String> {
    JobState::ALL
        .into_iter()
        .find(|state| state_name(*state) == text)
        .ok_or_else(|| {
            let names = JobState::ALL.map(state_name);
            format!("must be one of {}", names.join(", "))
        })
}

/// The name of a state, as in the API.
pub(super) fn state_name(state: JobState) -> &'static str {
    match state {
        JobState::Scheduled => "scheduled",
        JobState::Ready => "ready",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Dead => "dead",
        JobState::Cancelled => "cancelled",
    }
}
