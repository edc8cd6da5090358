//! Bulk actions on jobs: retry, cancel or delete all jobs that match a filter.
//!
//! Checks an action and its filter; the kind `retry.redrive` changes the jobs.

use std::time::Duration;

use harkara_kind::FieldError;
use harkara_queue::BulkSelection;
use harkara_queue::job::JobState;
use harkara_queue::read::JobFilter;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Default rate, in jobs a second.
pub const DEFAULT_RATE: u32 = 1000;

/// Maximum rate, in jobs a second.
pub const MAX_RATE: u32 = 100_000;

/// Time limit of counting the matching jobs.
pub const COUNT_TIMEOUT: Duration = Duration::from_secs(20);

/// Action on jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Dead and cancelled jobs become ready again.
    Retry,
    /// Scheduled, ready and running jobs are cancelled.
    Cancel,
    /// Succeeded, dead and cancelled jobs are removed.
    Delete,
}

impl Action {
    /// States of jobs that the action applies to.
    #[must_use]
    pub fn states(self) -> &'static [JobState] {
        match self {
            Self::Retry => &[JobState::Dead, JobState::Cancelled],
            Self::Cancel => &[JobState::Scheduled, JobState::Ready, JobState::Running],
            Self::Delete => &[JobState::Succeeded, JobState::Dead, JobState::Cancelled],
        }
    }
}

/// An action on all jobs that match a filter. The payload of `retry.redrive`. An empty filter matches all jobs that the
/// action applies to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Redrive {
    #[expect(
        missing_docs,
        reason = "an inlined member with a comment gets two types in its shape"
    )]
    #[schema(inline)]
    pub action: Action,
    #[expect(
        missing_docs,
        reason = "an inlined member with a comment gets two types in its shape"
    )]
    #[serde(default)]
    #[schema(inline)]
    pub filter: JobFilter,
    /// Jobs changed per second, 1 to 100000. Default 1000.
    #[serde(default = "default_rate")]
    #[schema(minimum = 1, maximum = 100000)]
    pub rate_per_second: i64,
}

fn default_rate() -> i64 {
    DEFAULT_RATE.into()
}

impl Redrive {
    /// Everything wrong with the action; pointers are relative to it.
    #[must_use]
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if !(1..=i64::from(MAX_RATE)).contains(&self.rate_per_second) {
            let found = self.rate_per_second;
            let detail = format!("must be between 1 and {MAX_RATE}, got {found}");
            errors.push(FieldError::new("/rate_per_second", "out_of_range", detail));
        }
        if let Some(state) = self.filter.state
            && !self.action.states().contains(&state)
        {
            let detail = match self.action {
                Action::Retry => "only jobs that are dead or cancelled can be retried",
                Action::Cancel => "only jobs that are scheduled, ready or running can be cancelled",
                Action::Delete => "only jobs that are succeeded, dead or cancelled can be deleted",
            };
            errors.push(FieldError::new("/filter/state", "not_for_action", detail));
        }
        errors
    }

    /// The jobs that the action applies to.
    #[must_use]
    pub fn selection(&self) -> BulkSelection {
        let filter = self.filter.clone();
        let states = match filter.state {
            Some(state) => vec![state],
            None => self.action.states().to_vec(),
        };
        BulkSelection { filter, states }
    }

    /// The rate in jobs a second, within the bounds of [`Redrive::check`].
    #[must_use]
    pub(crate) fn rate(&self) -> u32 {
        u32::try_from(self.rate_per_second).map_or(1, |rate| rate.clamp(1, MAX_RATE))
    }
}
