//! Room: around a handler.
//! Takes: a run and the handler's future. Gives: exactly one ending of the run: the handler's
//! verdict, or what became of it: panic, timeout, cancel, stop, lost lease.
//! Never: writes (that is the completer's), and never lets a panic or an error reach apalis.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use apalis_core::error::BoxDynError;
use apalis_core::task::Task;
use futures_util::FutureExt;
use harkara_shared::telemetry::metric;
use tokio::time::Instant;
use tower::{Layer, Service};
use tracing::Instrument;

use super::Run;
use super::desk::Desk;
use crate::claim::Claimed;
use crate::job::JobError;
use crate::verdict::{Ending, Verdict};

/// Puts [`RunService`] around a queue's handler.
#[derive(Clone)]
pub(super) struct RunLayer {
    desk: Arc<Desk>,
}

impl RunLayer {
    pub(super) fn new(desk: Arc<Desk>) -> Self {
        Self { desk }
    }
}

impl<S> Layer<S> for RunLayer {
    type Service = RunService<S>;

    fn layer(&self, handler: S) -> RunService<S> {
        RunService {
            desk: Arc::clone(&self.desk),
            handler,
            times: HashMap::new(),
        }
    }
}

/// Ends every run it is given.
pub(super) struct RunService<S> {
    desk: Arc<Desk>,
    handler: S,
    /// How long runs take, by kind.
    times: HashMap<Arc<str>, metrics::Histogram>,
}

impl<S> Service<Task<Run>> for RunService<S>
where
    S: Service<Task<Run>, Response = Verdict>,
    S::Future: Send + 'static,
    S::Error: Into<BoxDynError> + Send + 'static,
{
    type Response = ();
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<(), Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A handler's service has no way to be broken for good: an error is the same as ready, and
        // the run will tell.
        self.handler.poll_ready(cx).map(|_| Ok(()))
    }

    fn call(&mut self, task: Task<Run>) -> Self::Future {
        let desk = Arc::clone(&self.desk);
        let (run, context) = task.take();
        let job = run.job.clone();
        let times = self
            .times
            .entry(Arc::clone(&job.kind))
            .or_insert_with_key(
                |kind| metrics::histogram!(metric::RUN_SECONDS, "kind" => Arc::clone(kind)),
            )
            .clone();
        let handling = self.handler.call(Task::new_with_ctx(run, context));
        let span = tracing::info_span!(
            "job",
            job.id = %job.id,
            job.kind = &*job.kind,
            job.attempt = job.attempt,
            tenant.id = %job.tenant,
            request.id = job.trace().request_id,
        );
        Box::pin(
            async move {
                let started = Instant::now();
                let ending = end_of(&desk, &job, handling).await;
                let took = started.elapsed();
                times.record(took.as_secs_f64());
                desk.end(job, ending, Some(took));
                Ok(())
            }
            .instrument(span),
        )
    }
}

/// Waits for the first thing that ends the run; `None` when its outcome no longer counts.
async fn end_of<F, E>(desk: &Desk, job: &Claimed, handling: F) -> Option<Ending>
where
    F: Future<Output = Result<Verdict, E>>,
    E: Into<BoxDynError>,
{
    let signals = desk.signals(job)?;
    if signals.lost.is_cancelled() {
        return None;
    }
    if signals.parked && !signals.cancel.is_cancelled() {
        return Some(Ending::PutBack);
    }
    if let Err(reason) = &job.body {
        let error = JobError::new(
            "undecodable",
            format!("the stored job cannot be read: {reason}"),
        );
        return Some(Ending::Verdict(Verdict::Dead { error }));
    }
    let timeout = job.timeout();
    let handling = AssertUnwindSafe(tokio::time::timeout(timeout, handling)).catch_unwind();
    let mut handling = Box::pin(handling);
    if signals.cancel.is_cancelled() {
        return Some(Ending::Verdict(Verdict::Cancelled));
    }
    let ending = tokio::select! {
        biased;
        // First, so that a run that is done at once costs no more than that.
        ended = &mut handling => {
            let verdict = match ended {
                Ok(Ok(Ok(verdict))) => verdict,
                Ok(Ok(Err(error))) => failed("handler_failed", error.into().to_string()),
                Ok(Err(_)) => Verdict::timeout(timeout),
                Err(panic) => {
                    failed("panic", format!("the handler panicked: {}", words_of(&*panic)))
                }
            };
            Some(Ending::Verdict(heeding(verdict, signals.cancel.is_cancelled())))
        }
        () = signals.lost.cancelled() => None,
        () = desk.grace_over.cancelled() => Some(Ending::PutBack),
    };
    // What an abandoned handler leaves behind may panic too.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(handling))) {
        tracing::error!(panic = words_of(&*panic), "an abandoned handler panicked");
    }
    ending
}

/// What a verdict comes to when the job was cancelled while it ran: what is done is done, and what is dead
/// is dead, but it does not run again.
fn heeding(verdict: Verdict, is_cancelled: bool) -> Verdict {
    match verdict {
        Verdict::Done { .. } | Verdict::Dead { .. } => verdict,
        _ if is_cancelled => Verdict::Cancelled,
        _ => verdict,
    }
}

fn failed(code: &str, message: String) -> Verdict {
    Verdict::retry(JobError::new(code, message), None)
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
