//! Room: one run of a kind, and what its handler said.
//! Takes: a payload, and which run it is. Gives: the verdict, with questions that fail readably.
//! Never: writes anything of the job.

use std::future::IntoFuture;
use std::time::Duration;

use harkara_jobs::catalogue::{JobKind, Kind};
use harkara_queue::Verdict;
use harkara_queue::job::{JobError, NewJob};
use harkara_queue::test_worker::{self, DetachedJob};
use harkara_shared::id::JobId;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::handler::KitHandler;
use crate::{Boxed, Kit};

/// A run about to be made; `await` it.
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
            // No job of the table has it.
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
    /// Which run of the job it is; the first unless it is said.
    #[must_use]
    pub fn attempt(mut self, attempt: u16) -> Self {
        self.run.attempt = attempt;
        self
    }

    /// How many runs may fail: `.attempt(3).of(3)` is the last one.
    #[must_use]
    pub fn of(mut self, max_attempts: u16) -> Self {
        self.run.job.max_attempts = max_attempts;
        self
    }

    /// How long the run may take, by real time.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.run.job.timeout = timeout;
        self
    }

    /// The run is cancelled when this is.
    #[must_use]
    pub fn cancelled_by(mut self, cancel: &CancellationToken) -> Self {
        self.cancel = cancel.clone();
        self
    }

    /// The job of which this is a run.
    #[must_use]
    pub fn id(mut self, id: JobId) -> Self {
        self.run.id = id;
        self
    }

    /// Changes anything else of the job.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut NewJob)) -> Self {
        change(&mut self.run.job);
        self
    }

    /// Runs it although the kind's check finds fault with its payload, as it may with that of an
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
                verdict: made_up.await.expect("a run that counts"),
            }
        })
    }
}

/// What a handler said of its run. Each question panics when it said something else.
#[derive(Debug, Clone)]
#[must_use]
pub struct Performed {
    kind: &'static str,
    /// The verdict, as the handler said it, or the layer for it.
    pub verdict: Verdict,
}

/// A run that did what it should.
#[derive(Debug, Clone)]
pub struct Done {
    /// What is kept with the job.
    pub result: Option<Value>,
    /// The jobs that follow from it.
    pub follow_ups: Vec<NewJob>,
}

impl Done {
    /// The payloads of the follow-up jobs of a kind.
    ///
    /// # Panics
    /// When one of them cannot be read as the kind's.
    #[must_use]
    pub fn follow_ups<K: JobKind>(&self) -> Vec<K::Args> {
        self.follow_ups
            .iter()
            .filter(|job| job.kind == K::KIND)
            .map(|job| serde_json::from_str(job.payload.get()).expect("a payload of the kind"))
            .collect()
    }
}

/// What was told of a run that did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The words for people.
    pub message: String,
    /// The wait it asks for; `None` when the job's backoff decides, or nothing comes after it.
    pub wait: Option<Duration>,
}

impl Performed {
    /// It is done.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn done(self) -> Done {
        match self.verdict {
            Verdict::Done { result, follow_ups } => Done { result, follow_ups },
            ref other => self.wanted("it to be done", other),
        }
    }

    /// It failed with this code, in a way that may pass.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn retried(self, code: &str) -> Told {
        match &self.verdict {
            Verdict::Retry { error, after, .. } if error.code == code => told(error, *after),
            other => self.wanted(&format!("a retry by `{code}`"), other),
        }
    }

    /// It failed with this code, for good.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn dead(self, code: &str) -> Told {
        match &self.verdict {
            Verdict::Dead { error } if error.code == code => told(error, None),
            other => self.wanted(&format!("it to be dead by `{code}`"), other),
        }
    }

    /// It asked to be run later, for this reason.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn snoozed(self, code: &str) -> Told {
        match &self.verdict {
            Verdict::Snooze { wait, reason } if reason.code == code => told(reason, Some(*wait)),
            other => self.wanted(&format!("a snooze by `{code}`"), other),
        }
    }

    /// The other side asked to wait, with this code.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn rate_limited(self, code: &str) -> Told {
        match &self.verdict {
            Verdict::RateLimited { wait, reason } if reason.code == code => {
                told(reason, Some(*wait))
            }
            other => self.wanted(&format!("a rate limit by `{code}`"), other),
        }
    }

    /// It was cancelled.
    ///
    /// # Panics
    /// When it was not.
    #[track_caller]
    pub fn cancelled(self) {
        if !matches!(self.verdict, Verdict::Cancelled) {
            self.wanted("it to be cancelled", &self.verdict);
        }
    }

    #[track_caller]
    fn wanted(&self, wanted: &str, came: &Verdict) -> ! {
        panic!("{}: wanted {wanted}, but {}", self.kind, words(came));
    }
}

fn told(error: &JobError, wait: Option<Duration>) -> Told {
    Told {
        message: error.message.clone(),
        wait,
    }
}

/// A verdict as a sentence.
fn words(verdict: &Verdict) -> String {
    let of = |error: &JobError| format!("`{}` ({})", error.code, error.message);
    match verdict {
        Verdict::Done { result, follow_ups } => {
            let result = result.as_ref().map_or_else(
                || "no result".to_owned(),
                |result| format!("result {result}"),
            );
            format!(
                "it is done, with {result} and {} jobs to follow",
                follow_ups.len()
            )
        }
        Verdict::Retry {
            error, after: None, ..
        } => format!("it is retried by {}", of(error)),
        Verdict::Retry {
            error,
            after: Some(wait),
            ..
        } => format!("it is retried after {wait:?} by {}", of(error)),
        Verdict::Dead { error } => format!("it is dead by {}", of(error)),
        Verdict::Snooze { wait, reason } => format!("it is snoozed for {wait:?} by {}", of(reason)),
        Verdict::RateLimited { wait, reason } => {
            format!("it is rate limited for {wait:?} by {}", of(reason))
        }
        Verdict::Yield { wait } => format!("it yields: the rest after {wait:?}"),
        Verdict::Cancelled => "it is cancelled".to_owned(),
    }
}
