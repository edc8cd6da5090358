//! Runs a worker on apalis: claims jobs, calls their handler and writes the outcomes.
//!
//! ```text
//! lease_keeper ── lease ──▶ dispatcher ── claimed jobs ──▶ backend ──▶ apalis ──▶ run_layer ── outcomes ──▶ completer
//! rescuer      (jobs of lost workers)  ▲                                        (handler)
//! due_poller   (due jobs)              ├── wake signals
//! listener     (notifications)         ┘
//! ```
//!
//! [`worker`] starts and stops these parts; they share the [`worker_state`].

mod backend;
mod completer;
mod dispatcher;
mod due_poller;
mod fair_share;
mod handler;
mod in_flight;
mod known_lanes;
mod lease_keeper;
mod lease_state;
mod listener;
mod options;
mod queue_slots;
mod rescuer;
mod run_layer;
mod served_totals;
#[cfg(feature = "testing")]
pub mod test_worker;
mod wake_signals;
mod worker;
mod worker_state;

pub use handler::{Handler, Run};
pub use options::WorkerOptions;
pub use worker::{Worker, WorkerStopped};
