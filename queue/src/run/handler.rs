//! The interface between a worker and the code that runs jobs.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use apalis_core::task::Task;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::claimed::ClaimedJob;
use crate::verdict::Verdict;

/// One run of a job, as its handler receives it.
#[derive(Debug, Clone)]
pub struct Run {
    /// The claimed job.
    pub job: ClaimedJob,
    /// Cancelled when the job is cancelled. The handler should then return soon: [`Verdict::Cancelled`], or
    /// [`Verdict::Done`] if its work is done.
    pub cancel: CancellationToken,
}

/// Runs jobs of all kinds.
pub trait Handler: Send + Sync + 'static {
    /// Runs one job and returns its verdict.
    ///
    /// The future is dropped at the job's timeout, at the end of the drain time of a stopping worker, and
    /// when the worker loses its lease. It is not dropped when the job is cancelled: [`Run::cancel`]
    /// signals that. A panic counts as a failure that may be retried.
    fn run(&self, run: Run) -> Pin<Box<dyn Future<Output = Verdict> + Send>>;
}

/// A [`Handler`] as the tower service that apalis calls.
pub(super) struct HandlerService(pub(super) Arc<dyn Handler>);

impl Service<Task<Run>> for HandlerService {
    type Response = Verdict;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Verdict, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<Run>) -> Self::Future {
        let (run, _) = task.take();
        // Called inside the future, so that a panic before the handler's first await is caught too.
        let handler = Arc::clone(&self.0);
        Box::pin(async move { Ok(handler.run(run).await) })
    }
}
