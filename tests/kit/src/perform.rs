//! Runs the handler of a kind once and checks its verdict.
//! Takes a payload and the attempt number, and returns the verdict with readable assertions.
//! Never writes a job.

use std::future::IntoFuture;
use std::time::Duration;

use harkara_jobs::catalogue::Kind;
use harkara_kind::JobKind;
use harkara_queue::Verdict;
use harkara_queue::job::{JobError, NewJob};
use harkara_queue::test_worker::{self, DetachedJob};
use harkara_shared::id::JobId;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::handler::KitHandler;
use crate::{Boxed, Kit};

/// A run that starts when it is awaited.
#[derive(Debug)]
pub struct Perform<'a> {
    kit: &'a Kit,
    kind: Kind,
    run: DetachedJob,
    cancel: CancellationToken,
    unchecked: bool,
}

impl<'a> Perform<'a> {
    pub(crate) fn new(kit: &'a Kit, kind: Kind, job: NewJob) -> Self {
        let run = DetachedJob {
            // No stored job has this id.
            id: JobId::from_i64(i64::MAX),
            tenant: kit.tenant,
            job,
            attempt: 1,
        };
        Self {
            kit,
            kind,
            run,
            cancel: CancellationToken::new(),
            unchecked: false,
        }
    }
}

impl Perform<'_> {
    /// The attempt number of the run; 1 by default.
    #[must_use]
    pub fn attempt(mut self, attempt: u16) -> Self {
        self.run.attempt = attempt;
        self
    }

    /// The maximum number of attempts: `.attempt(3).of(3)` is the last one.
    #[must_use]
    pub fn of(mut self, max_attempts: u16) -> Self {
        self.run.job.max_attempts = max_attempts;
        self
    }

    /// The timeout of the run, in real time.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.run.job.timeout = timeout;
        self
    }

    /// Cancels the run when this token is cancelled.
    #[must_use]
    pub fn cancelled_by(mut self, cancel: &CancellationToken) -> Self {
        self.cancel = cancel.clone();
        self
    }

    /// The id of the job.
    #[must_use]
    pub fn id(mut self, id: JobId) -> Self {
        self.run.id = id;
        self
    }

    /// Changes other fields of the job.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut NewJob)) -> Self {
        change(&mut self.run.job);
        self
    }

    /// Runs it although the kind's check rejects the payload, as it can with one of an
    /// older release.
    #[must_use]
    pub fn unchecked(mut self) -> Self {
        self.unchecked = true;
        self
    }
}

impl<'a> IntoFuture for Perform<'a> {
    type Output = Performed;
    type IntoFuture = Boxed<'a, Performed>;

    #[track_caller]
    fn into_future(self) -> Self::IntoFuture {
        let payload = &self.run.job.payload;
        if !self.unchecked {
            let faults = self.kind.check(payload);
            assert!(
                faults.is_empty(),
                "{}: the API would refuse {payload}: {faults:#?}",
                self.kind.name
            );
        }
        Box::pin(async move {
            let handler = KitHandler::of(self.kit, Some(self.kind));
            let engine = &self.kit.services.engine;
            let made_up = self.kit.clock.scope(test_worker::perform_job(
                engine,
                handler,
                self.run,
                self.cancel,
            ));
            Performed {
                kind: self.kind.name,
                verdict: made_up.await.expect("a valid run"),
            }
        })
    }
}

/// The verdict of a run. Each assertion panics when the verdict is another one.
#[derive(Debug, Clone)]
#[must_use]
pub struct Performed {
    kind: &'static str,
    /// The verdict returned by the handler, or by the layer around it.
    pub verdict: Verdict,
}

/// The result of a successful run.
#[derive(Debug, Clone)]
pub struct Done {
    /// The result stored with the job.
    pub result: Option<Value>,
    /// The follow-up jobs.
    pub follow_ups: Vec<NewJob>,
}

impl Done {
    /// The payloads of the follow-up jobs of a kind.
    ///
    /// # Panics
    /// When a payload cannot be decoded as the kind's.
    #[must_use]
    pub fn follow_ups<K: JobKind>(&self) -> Vec<K::Args> {
        self.follow_ups
            .iter()
            .filter(|job| job.kind == K::KIND)
            .map(|job| serde_json::from_str(job.payload.get()).expect("a payload of the kind"))
            .collect()
    }
}

/// The details of an unsuccessful verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The error message.
    pub message: String,
    /// The requested wait; `None` when the job's backoff applies, or the job has ended.
    pub wait: Option<Duration>,
}

impl Performed {
    /// Asserts that the run succeeded.
    ///
    /// # Panics
    /// When the verdict is another one.
    #[track_caller]
    pub fn done(self) -> Done {
        match self.verdict {
            Verdict::Done { result, follow_ups } => Done { result, follow_ups },
            ref other => self.expected("done", other),
        }
    }

    /// Asserts a retryable failure with this code.
    ///
    /// # Panics
    /// When the verdict is another one.
    #[track_caller]
    pub fn retried(self, code: &str) -> Failure {
        match &self.verdict {
            Verdict::Retry { error, after, .. } if error.code == code => failure(error, *after),
            other => self.expected(&format!("a retry with `{code}`"), other),
        }
    }

    /// Asserts a permanent failure with this code.
    ///
    /// # Panics
    /// When the verdict is another one.
    #[track_caller]
    pub fn dead(self, code: &str) -> Failure {
        match &self.verdict {
            Verdict::Dead { error } if error.code == code => failure(error, None),
            other => self.expected(&format!("dead with `{code}`"), other),
        }
    }

    /// Asserts a snooze with this code.
    ///
    /// # Panics
    /// When the verdict is another one.
    #[track_caller]
    pub fn snoozed(self, code: &str) -> Failure {
        match &self.verdict {
            Verdict::Snooze { wait, reason } if reason.code == code => failure(reason, Some(*wait)),
            other => self.expected(&format!("a snooze with `{code}`"), other),
        }
    }

    /// Asserts a rate limit with this code.
    ///
    /// # Panics
    /// When the verdict is another one.
    #[track_caller]
    pub fn rate_limited(self, code: &str) -> Failure {
        match &self.verdict {
            Verdict::RateLimited { wait, reason } if reason.code == code => {
                failure(reason, Some(*wait))
            }
            other => self.expected(&format!("a rate limit with `{code}`"), other),
        }
    }

    /// Asserts that the run was cancelled.
    ///
    /// # Panics
    /// When the verdict is another one.
    #[track_caller]
    pub fn cancelled(self) {
        if !matches!(self.verdict, Verdict::Cancelled) {
            self.expected("cancelled", &self.verdict);
        }
    }

    #[track_caller]
    fn expected(&self, expected: &str, verdict: &Verdict) -> ! {
        panic!(
            "{}: expected {expected}, got {}",
            self.kind,
            describe(verdict)
        );
    }
}

fn failure(error: &JobError, wait: Option<Duration>) -> Failure {
    Failure {
        message: error.message.clone(),
        wait,
    }
}

/// A verdict as text.
fn describe(verdict: &Verdict) -> String {
    let of = |error: &JobError| format!("`{}` ({})", error.code, error.message);
    match verdict {
        Verdict::Done { result, follow_ups } => {
            let result = result.as_ref().map_or_else(
                || "no result".to_owned(),
                |result| format!("result {result}"),
            );
            format!("done with {result} and {} follow-up jobs", follow_ups.len())
        }
        Verdict::Retry {
            error, after: None, ..
        } => format!("a retry with {}", of(error)),
        Verdict::Retry {
            error,
            after: Some(wait),
            ..
        } => format!("a retry after {wait:?} with {}", of(error)),
        Verdict::Dead { error } => format!("dead with {}", of(error)),
        Verdict::Snooze { wait, reason } => format!("a snooze of {wait:?} with {}", of(reason)),
        Verdict::RateLimited { wait, reason } => {
            format!("a rate limit of {wait:?} with {}", of(reason))
        }
        Verdict::Yield { wait } => format!("a yield of {wait:?}"),
        Verdict::Cancelled => "cancelled".to_owned(),
    }
}
