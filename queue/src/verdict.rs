//! Turns a handler's [`Verdict`] into the [`Settlement`] that is written.
//!
//! [`decide`] is the only place that decides whether a job is retried, deferred, dead or finished. It
//! neither reads the clock nor touches the database.

use std::time::Duration;

use rand::Rng;
use serde_json::Value;

use crate::claimed::ClaimedJob;
use crate::job::{AttemptOutcome, JobError, JobState, NewJob};

/// How often a job may be deferred without using an attempt. Each further deferral counts as a failed
/// run, so that no job waits forever for a condition that never comes true.
pub const MAX_DEFERRALS: u16 = 1000;

/// The priority of a job retried with `lower_priority`: below the default priority of 5.
pub const RETRY_PRIORITY: u8 = 7;

/// How a handler reports the end of its run: what happened, not what the engine does next.
///
/// Waits are durations rather than points in time: the database adds them to its own clock, so a
/// worker whose clock is wrong cannot start a job early.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// The job succeeded.
    Done {
        /// A small value to keep, shown as the job's `result`.
        result: Option<Value>,
        /// Jobs of the same tenant to enqueue in the transaction that finishes this one.
        follow_ups: Vec<NewJob>,
    },
    /// The run failed and may succeed later. Uses an attempt, unless the run was the trial of a circuit
    /// breaker.
    Retry {
        /// What went wrong.
        error: JobError,
        /// Time until the next run; `None` uses the job's backoff.
        after: Option<Duration>,
        /// From now on the job runs after others of its lane: its priority becomes [`RETRY_PRIORITY`],
        /// unless it is lower already. Has no effect on the order of an ordered lane.
        lower_priority: bool,
    },
    /// The run failed and would fail again.
    Dead {
        /// What went wrong.
        error: JobError,
    },
    /// The job cannot run yet, although nothing failed. Uses no attempt, at most [`MAX_DEFERRALS`]
    /// times.
    Snooze {
        /// Time until the next run.
        wait: Duration,
        /// Why.
        reason: JobError,
    },
    /// The called service asked to wait. Uses no attempt, at most [`MAX_DEFERRALS`] times. Closes the
    /// job's lane for that time, on all workers. In the default lane, whose jobs share no service, only
    /// the job itself waits.
    RateLimited {
        /// The wait that the service asked for.
        wait: Duration,
        /// How the service put it.
        reason: JobError,
    },
    /// The run ended early because the job was cancelled.
    Cancelled,
    /// The run made progress and continues in another run, after other waiting jobs. Uses no attempt,
    /// does not count as a deferral and writes no attempt log. For long jobs that store their own
    /// progress, and for jobs that wait for a resource that is free again soon.
    Yield {
        /// Time until the next run; zero makes the job ready at once.
        wait: Duration,
    },
}

impl Verdict {
    /// A failure that may pass, at unchanged priority. `after` replaces the backoff if it is set.
    #[must_use]
    pub fn retry(error: JobError, after: Option<Duration>) -> Self {
        Self::Retry {
            error,
            after,
            lower_priority: false,
        }
    }

    /// The run exceeded its timeout of `limit`.
    pub(crate) fn timeout(limit: Duration) -> Self {
        let limit = limit.as_millis();
        let message = format!("the handler did not finish within {limit} ms");
        Self::retry(JobError::new("timeout", message), None)
    }

    /// Success without a result or follow-up jobs.
    #[must_use]
    pub fn done() -> Self {
        Self::Done {
            result: None,
            follow_ups: Vec::new(),
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone)]
pub(crate) enum RunOutcome {
    /// By a verdict: of the handler, or of the engine for a panic, a timeout or a cancellation.
    Verdict(Verdict),
    /// The job goes back to the queue as if it had not been claimed, because the worker cannot run or
    /// finish it.
    PutBack,
}

/// What is written for one run.
#[derive(Debug, Clone)]
pub(crate) struct Settlement {
    pub(crate) state: JobState,
    /// Time until the job is due again. `None` leaves the due time as it is.
    pub(crate) wait: Option<Duration>,
    /// The run uses no attempt.
    pub(crate) refund: bool,
    /// The run counts as a deferral.
    pub(crate) deferral: bool,
    /// The job's priority is at most [`RETRY_PRIORITY`] from now on.
    pub(crate) lower_priority: bool,
    /// Outcome in the attempt log. `None` writes no log row.
    pub(crate) outcome: Option<AttemptOutcome>,
    pub(crate) error: Option<JobError>,
    pub(crate) result: Option<Value>,
    pub(crate) follow_ups: Vec<NewJob>,
    /// The circuit breaker of the job's lane counts this run as a failure.
    pub(crate) breaker_failure: bool,
    /// How long the job's lane is closed.
    pub(crate) park: Option<Duration>,
    /// How long the run took. `None` if it never started.
    pub(crate) run_time: Option<Duration>,
}

impl Settlement {
    /// The state that is stored: a scheduled job without a wait is ready.
    pub(crate) fn written_state(&self) -> JobState {
        match self.state {
            JobState::Scheduled if self.wait.is_none_or(|wait| wait.is_zero()) => JobState::Ready,
            state => state,
        }
    }

    fn finished(state: JobState, outcome: AttemptOutcome, error: Option<JobError>) -> Self {
        Self {
            state,
            wait: None,
            refund: false,
            deferral: false,
            lower_priority: false,
            outcome: Some(outcome),
            error,
            result: None,
            follow_ups: Vec::new(),
            breaker_failure: false,
            park: None,
            run_time: None,
        }
    }

    fn scheduled(wait: Duration, outcome: AttemptOutcome, error: JobError) -> Self {
        Self {
            wait: Some(wait),
            ..Self::finished(JobState::Scheduled, outcome, Some(error))
        }
    }
}

/// Decides what is written for a run of `job` that ended with `outcome`.
pub(crate) fn decide(outcome: RunOutcome, job: &ClaimedJob, rng: &mut impl Rng) -> Settlement {
    let verdict = match outcome {
        RunOutcome::PutBack => {
            return Settlement {
                refund: true,
                outcome: None,
                ..Settlement::finished(JobState::Ready, AttemptOutcome::Snoozed, None)
            };
        }
        RunOutcome::Verdict(verdict) => verdict,
    };
    match verdict {
        Verdict::Done { result, follow_ups } => Settlement {
            result,
            follow_ups,
            ..Settlement::finished(JobState::Succeeded, AttemptOutcome::Succeeded, None)
        },
        Verdict::Dead { error } => {
            Settlement::finished(JobState::Dead, AttemptOutcome::Dead, Some(error))
        }
        Verdict::Cancelled => {
            let error = JobError::new("cancelled", "the job was cancelled while it ran");
            Settlement::finished(JobState::Cancelled, AttemptOutcome::Cancelled, Some(error))
        }
        Verdict::Yield { wait } => Settlement {
            wait: Some(wait),
            refund: true,
            outcome: None,
            ..Settlement::finished(JobState::Scheduled, AttemptOutcome::Snoozed, None)
        },
        Verdict::Retry {
            error,
            after,
            lower_priority,
        } => {
            let settlement = decide_failure(job, error, after, rng);
            Settlement {
                // A dead job keeps its priority, for the case that it is retried manually.
                lower_priority: lower_priority && !settlement.state.is_final(),
                ..settlement
            }
        }
        Verdict::Snooze { wait, reason } if job.deferrals < MAX_DEFERRALS => Settlement {
            refund: true,
            deferral: true,
            ..Settlement::scheduled(wait, AttemptOutcome::Snoozed, reason)
        },
        Verdict::RateLimited { wait, reason } if job.deferrals < MAX_DEFERRALS => Settlement {
            refund: true,
            deferral: true,
            park: Some(wait),
            ..Settlement::scheduled(wait, AttemptOutcome::RateLimited, reason)
        },
        Verdict::Snooze { wait, reason } | Verdict::RateLimited { wait, reason } => {
            decide_failure(job, reason, Some(wait), rng)
        }
    }
}

/// Decides between another run and `dead` for a failed run.
fn decide_failure(
    job: &ClaimedJob,
    error: JobError,
    after: Option<Duration>,
    rng: &mut impl Rng,
) -> Settlement {
    let settlement = if job.is_last_attempt() {
        Settlement::finished(JobState::Dead, AttemptOutcome::Dead, Some(error))
    } else {
        let wait = after.unwrap_or_else(|| job.backoff().delay(u32::from(job.attempt), rng));
        Settlement {
            // A trial tests the lane; its failure is no evidence against the job.
            refund: job.is_trial(),
            ..Settlement::scheduled(wait, AttemptOutcome::Retry, error)
        }
    };
    Settlement {
        breaker_failure: true,
        ..settlement
    }
}

#[cfg(test)]
mod tests;
