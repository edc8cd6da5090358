//! Room: between a handler and its job's next state.
//! Takes: a [`Verdict`], what a handler says about its run. Gives: a [`Settlement`], what is
//! written. This is the one place that decides whether a job is tried again, put off, buried or
//! finished. Never: touches the database or the clock.

use std::time::Duration;

use rand::Rng;
use serde_json::Value;

use crate::claim::Claimed;
use crate::job::{AttemptOutcome, JobError, JobState, NewJob};

/// How often a job may be put off without using up an attempt. Every further time counts as a
/// failed run, so that nothing waits for ever on something that never comes.
pub const MAX_DEFERRALS: u16 = 1000;

/// The priority of a job that gives way: behind those of the usual priority.
pub const RETRY_PRIORITY: u8 = 7;

/// What a handler says about its run: what went wrong, never what happens next.
///
/// Waits are lengths, not moments: they are added to the database's clock when they are written, so
/// that a worker whose clock is off cannot call a job early.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Done, with a small result to keep and jobs that follow from it, which are enqueued in the
    /// transaction that finishes this one.
    Done {
        /// Shown as the job's `result`.
        result: Option<Value>,
        /// Follow-up jobs of the same tenant.
        follow_ups: Vec<NewJob>,
    },
    /// A failure that may pass. Uses up an attempt, unless it was the trial of a breaker; `after`, when
    /// given, replaces the backoff.
    Retry {
        /// What went wrong.
        error: JobError,
        /// The wait to the next run.
        after: Option<Duration>,
        /// From now on the job gives way to others of its lane: its priority becomes [`RETRY_PRIORITY`], unless
        /// it is less urgent already. The first job of an ordered lane stays the first all the same.
        lower_priority: bool,
    },
    /// A failure that will not pass.
    Dead {
        /// What went wrong.
        error: JobError,
    },
    /// Not now, though nothing is wrong. No attempt used, at most [`MAX_DEFERRALS`] times.
    Snooze {
        /// The wait.
        wait: Duration,
        /// Why.
        reason: JobError,
    },
    /// The other side asked to wait. No attempt used, at most [`MAX_DEFERRALS`] times. Closes the
    /// job's lane for as long, for all workers; in the default lane, where jobs have no other side in
    /// common, the job alone waits.
    RateLimited {
        /// The wait it asked for.
        wait: Duration,
        /// What it said.
        reason: JobError,
    },
    /// The run ended early because somebody cancelled the job.
    Cancelled,
    /// Not finished, and nothing is wrong: the rest comes in another run, after others that wait. No
    /// attempt used, not counted as put off, and no word in the log of runs. For long work that keeps by
    /// itself how far it came, and for jobs that find something used up that is soon free again.
    Yield {
        /// The wait to the next run; none when it is zero.
        wait: Duration,
    },
}

impl Verdict {
    /// A failure that may pass, of a job that keeps its place; `after`, when given, replaces the backoff.
    #[must_use]
    pub fn retry(error: JobError, after: Option<Duration>) -> Self {
        Self::Retry {
            error,
            after,
            lower_priority: false,
        }
    }

    /// The run took too long.
    pub(crate) fn timeout(limit: Duration) -> Self {
        let limit = limit.as_millis();
        let message = format!("the handler did not finish within {limit} ms");
        Self::retry(JobError::new("timeout", message), None)
    }

    /// Done, with nothing to tell.
    #[must_use]
    pub fn done() -> Self {
        Self::Done {
            result: None,
            follow_ups: Vec::new(),
        }
    }
}

/// How a run ended, as the engine sees it: by a verdict, or put back untouched by a worker that
/// stops.
#[derive(Debug, Clone)]
pub(crate) enum Ending {
    Verdict(Verdict),
    PutBack,
}

/// One row of the settling statement.
#[derive(Debug, Clone)]
pub(crate) struct Settlement {
    pub(crate) state: JobState,
    /// Wait before the job is due again; `None` leaves the due time as it is.
    pub(crate) wait: Option<Duration>,
    /// Give the attempt of this run back.
    pub(crate) refund: bool,
    /// Count this run as a deferral.
    pub(crate) deferral: bool,
    /// The job gives way from now on: its priority is [`RETRY_PRIORITY`] at most.
    pub(crate) lower_priority: bool,
    /// Row of the attempt log; `None` writes none.
    pub(crate) outcome: Option<AttemptOutcome>,
    pub(crate) error: Option<JobError>,
    pub(crate) result: Option<Value>,
    pub(crate) follow_ups: Vec<NewJob>,
    /// A failure that may pass, as the breaker of the job's lane counts them.
    pub(crate) fault: bool,
    /// How long the job's lane is to be closed.
    pub(crate) park: Option<Duration>,
    /// How long the run took, if it was begun.
    pub(crate) took: Option<Duration>,
}

impl Settlement {
    /// The state as it is written: a wait of nothing is no wait.
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
            fault: false,
            park: None,
            took: None,
        }
    }

    fn again(wait: Duration, outcome: AttemptOutcome, error: JobError) -> Self {
        Self {
            state: JobState::Scheduled,
            wait: Some(wait),
            ..Self::finished(JobState::Scheduled, outcome, Some(error))
        }
    }
}

/// Decides what is written for a run of `job` that ended so.
pub(crate) fn decide(ending: Ending, job: &Claimed, rng: &mut impl Rng) -> Settlement {
    let verdict = match ending {
        Ending::PutBack => {
            return Settlement {
                state: JobState::Ready,
                refund: true,
                outcome: None,
                ..Settlement::finished(JobState::Ready, AttemptOutcome::Snoozed, None)
            };
        }
        Ending::Verdict(verdict) => verdict,
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
            let settlement = failed(job, error, after, rng);
            Settlement {
                // Whoever retries it by hand wants it as it was.
                lower_priority: lower_priority && !settlement.state.is_final(),
                ..settlement
            }
        }
        Verdict::Snooze { wait, reason } if job.deferrals < MAX_DEFERRALS => Settlement {
            refund: true,
            deferral: true,
            ..Settlement::again(wait, AttemptOutcome::Snoozed, reason)
        },
        Verdict::RateLimited { wait, reason } if job.deferrals < MAX_DEFERRALS => Settlement {
            refund: true,
            deferral: true,
            park: Some(wait),
            ..Settlement::again(wait, AttemptOutcome::RateLimited, reason)
        },
        Verdict::Snooze { wait, reason } | Verdict::RateLimited { wait, reason } => {
            failed(job, reason, Some(wait), rng)
        }
    }
}

fn failed(
    job: &Claimed,
    error: JobError,
    after: Option<Duration>,
    rng: &mut impl Rng,
) -> Settlement {
    let settlement = if job.is_last_attempt() {
        Settlement::finished(JobState::Dead, AttemptOutcome::Dead, Some(error))
    } else {
        let wait = after.unwrap_or_else(|| job.backoff().delay(u32::from(job.attempt), rng));
        Settlement {
            // It was tried for the sake of its lane, and tells little of the job.
            refund: job.is_trial(),
            ..Settlement::again(wait, AttemptOutcome::Retry, error)
        }
    };
    Settlement {
        fault: true,
        ..settlement
    }
}

#[cfg(test)]
mod tests;
