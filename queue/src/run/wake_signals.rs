//! Signals that wake the dispatcher and the due poller of a worker, and why.
//!
//! Each reason is a flag that the dispatcher reads and clears. Several signals before the dispatcher wakes
//! count as one.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// The wake signals of one worker.
#[derive(Debug)]
pub(super) struct WakeSignals {
    dispatcher: Notify,
    due_poller: Notify,
    /// There may be ready jobs in lanes that the dispatcher has not found yet.
    new_work: AtomicBool,
    /// Closed lanes may be open already: a pause ended or a limit was raised.
    lanes_opened: AtomicBool,
    /// Outcomes were written: their jobs no longer count against limits or block ordered lanes.
    outcomes_written: AtomicBool,
}

impl WakeSignals {
    /// The signals of a new worker: there may be new work.
    pub(super) fn new() -> Self {
        Self {
            dispatcher: Notify::new(),
            due_poller: Notify::new(),
            new_work: AtomicBool::new(true),
            lanes_opened: AtomicBool::new(false),
            outcomes_written: AtomicBool::new(false),
        }
    }

    /// Reports that jobs may have become ready.
    pub(super) fn signal_new_work(&self) {
        self.new_work.store(true, Ordering::Release);
        self.dispatcher.notify_one();
    }

    /// Reports that lanes were opened or limits were raised.
    pub(super) fn signal_lanes_opened(&self) {
        self.lanes_opened.store(true, Ordering::Release);
        self.signal_new_work();
    }

    /// Reports that outcomes of runs were written.
    pub(super) fn signal_outcomes_written(&self) {
        self.outcomes_written.store(true, Ordering::Release);
        self.dispatcher.notify_one();
    }

    /// Reports that the worker can hold more jobs.
    pub(super) fn signal_capacity(&self) {
        self.dispatcher.notify_one();
    }

    /// Reports that a job may be due before the next poll.
    pub(super) fn signal_due_soon(&self) {
        self.due_poller.notify_one();
    }

    /// Sends all signals that notifications cause, because notifications may have been missed.
    pub(super) fn signal_all(&self) {
        self.signal_lanes_opened();
        self.signal_due_soon();
    }

    /// Waits for a signal to the dispatcher.
    pub(super) async fn wait_for_dispatcher_signal(&self) {
        self.dispatcher.notified().await;
    }

    /// Waits for a signal to the due poller.
    pub(super) async fn wait_for_due_poller_signal(&self) {
        self.due_poller.notified().await;
    }

    /// Whether new work was signalled since the last call.
    pub(super) fn take_new_work(&self) -> bool {
        self.new_work.swap(false, Ordering::AcqRel)
    }

    /// Whether opened lanes were signalled since the last call.
    pub(super) fn take_lanes_opened(&self) -> bool {
        self.lanes_opened.swap(false, Ordering::AcqRel)
    }

    /// Whether written outcomes were signalled since the last call.
    pub(super) fn take_outcomes_written(&self) -> bool {
        self.outcomes_written.swap(false, Ordering::AcqRel)
    }
}
