//! Room: the seam to apalis: a backend that hands over what the dispatcher claimed.
//! Takes: tasks from a channel. Gives: tasks to an apalis worker. Never: fails (an error would end
//! the worker for good), and never has an acknowledgement to wait for when it closes.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::task::Task;
use apalis_core::worker::context::WorkerContext;
use tokio::sync::mpsc;

use super::Run;
use super::desk::Desk;
use super::layer::RunLayer;
use crate::verdict::Ending;

/// One queue's tasks.
pub(super) struct QueueBackend {
    tasks: mpsc::UnboundedReceiver<Task<Run>>,
    desk: Arc<Desk>,
}

impl QueueBackend {
    pub(super) fn new(tasks: mpsc::UnboundedReceiver<Task<Run>>, desk: Arc<Desk>) -> Self {
        Self { tasks, desk }
    }
}

impl Backend for QueueBackend {
    type Task = Task<Run>;
    type Error = Infallible;

    fn poll_ready(
        &mut self,
        _: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Task<Run>, Infallible>>> {
        match self.tasks.poll_recv(cx) {
            Poll::Ready(Some(task)) => Poll::Ready(Some(Ok(task))),
            // The dispatcher has ended because the worker stops. Answering `None` would have apalis
            // wait for a stop it has already been given; its own stop wakes it.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// Puts back what was handed over but never begun.
    fn poll_close(
        &mut self,
        _: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        self.tasks.close();
        while let Ok(task) = self.tasks.try_recv() {
            let (run, _) = task.take();
            self.desk.end(run.job, Some(Ending::PutBack), None);
        }
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for QueueBackend {
    type Args = Run;
    type Id = String;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = RunLayer;

    fn config(&self) -> &Self::Config {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> RunLayer {
        RunLayer::new(Arc::clone(&self.desk))
    }
}
