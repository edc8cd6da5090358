//! Wraps a handler in a tower layer that gives each run exactly one outcome.
//!
//! The outcome is the handler's verdict, unless a panic, a timeout, a cancellation, the end of the drain time
//! or the loss of the lease ends the run. Outcomes are sent to [`WorkerState`]; neither a panic nor an error
//! reaches apalis.

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

use super::handler::Run;
use super::worker_state::WorkerState;
use crate::claimed::ClaimedJob;
use crate::job::JobError;
use crate::verdict::{RunOutcome, Verdict};

/// Wraps a queue's handler in a [`RunService`].
#[derive(Clone)]
pub(super) struct RunLayer {
    state: Arc<WorkerState>,
}

impl RunLayer {
    pub(super) fn new(state: Arc<WorkerState>) -> Self {
        Self { state }
    }
}

impl<S> Layer<S> for RunLayer {
    type Service = RunService<S>;

    fn layer(&self, handler: S) -> RunService<S> {
        RunService {
            state: Arc::clone(&self.state),
            handler,
            run_histograms: HashMap::new(),
        }
    }
}

/// Runs jobs with `handler` and reports their outcomes.
pub(super) struct RunService<S> {
    state: Arc<WorkerState>,
    handler: S,
    /// Run times in seconds, by kind.
    run_histograms: HashMap<Arc<str>, metrics::Histogram>,
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
        // A handler that reports an error here counts as ready; its call then fails the run.
        self.handler.poll_ready(cx).map(|_| Ok(()))
    }

    fn call(&mut self, task: Task<Run>) -> Self::Future {
        let state = Arc::clone(&self.state);
        let (run, context) = task.take();
        let job = run.job.clone();
        let run_histogram = self
            .run_histograms
            .entry(Arc::clone(&job.kind))
            .or_insert_with_key(
                |kind| metrics::histogram!(metric::RUN_SECONDS, "kind" => Arc::clone(kind)),
            )
            .clone();
        let handler_future = self.handler.call(Task::new_with_ctx(run, context));
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
                let started_at = Instant::now();
                let outcome = run_to_outcome(&state, &job, handler_future).await;
                let run_time = started_at.elapsed();
                run_histogram.record(run_time.as_secs_f64());
                state.finish_run(job, outcome, Some(run_time));
                Ok(())
            }
            .instrument(span),
        )
    }
}

/// Runs a job until the first event that ends its run. Returns `None` if no outcome is to be written,
/// because the job is no longer held or its lease is lost.
async fn run_to_outcome<F, E>(
    state: &WorkerState,
    job: &ClaimedJob,
    handler_future: F,
) -> Option<RunOutcome>
where
    F: Future<Output = Result<Verdict, E>>,
    E: Into<BoxDynError>,
{
    let signals = state.start_run(job)?;
    if signals.lease_lost.is_cancelled() {
        return None;
    }
    if signals.is_parked && !signals.cancel.is_cancelled() {
        return Some(RunOutcome::PutBack);
    }
    if let Err(reason) = &job.body {
        let error = JobError::new(
            "undecodable",
            format!("the stored job cannot be read: {reason}"),
        );
        return Some(RunOutcome::Verdict(Verdict::Dead { error }));
    }
    let timeout = job.timeout();
    let handler_future =
        AssertUnwindSafe(tokio::time::timeout(timeout, handler_future)).catch_unwind();
    let mut handler_future = Box::pin(handler_future);
    if signals.cancel.is_cancelled() {
        return Some(RunOutcome::Verdict(Verdict::Cancelled));
    }
    let outcome = tokio::select! {
        biased;
        // Polled first: most runs of short jobs end here without polling the other futures.
        result = &mut handler_future => {
            let verdict = match result {
                Ok(Ok(Ok(verdict))) => verdict,
                Ok(Ok(Err(error))) => retry_verdict("handler_failed", error.into().to_string()),
                Ok(Err(_)) => Verdict::timeout(timeout),
                Err(panic) => {
                    retry_verdict("panic", format!("the handler panicked: {}", panic_message(&*panic)))
                }
            };
            let verdict = apply_cancellation(verdict, signals.cancel.is_cancelled());
            Some(RunOutcome::Verdict(verdict))
        }
        () = signals.lease_lost.cancelled() => None,
        () = state.drain_expired.cancelled() => Some(RunOutcome::PutBack),
    };
    // Dropping an unfinished handler can panic too.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(handler_future))) {
        tracing::error!(
            panic = panic_message(&*panic),
            "handler panicked while it was dropped"
        );
    }
    outcome
}

/// Replaces the verdict of a cancelled job by [`Verdict::Cancelled`], unless the job is done or dead.
fn apply_cancellation(verdict: Verdict, is_cancelled: bool) -> Verdict {
    match verdict {
        Verdict::Done { .. } | Verdict::Dead { .. } => verdict,
        _ if is_cancelled => Verdict::Cancelled,
        _ => verdict,
    }
}

fn retry_verdict(code: &str, message: String) -> Verdict {
    Verdict::retry(JobError::new(code, message), None)
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
