//! The queue engine of Harkara: enqueue, claim, settle, leases, maintenance, the read side, and the
//! apalis backend that runs it.
//!
//! This is the only crate that names apalis or the `queue` schema. Its line:
//!
//! ```text
//! NewJob ──▶ enqueue ──▶ Postgres ──▶ claim ──▶ run (handler) ──▶ verdict ──▶ settle ──▶ Postgres
//! ```

mod claim;
mod client;
mod control;
mod counters;
mod engine;
mod enqueue;
mod envelope;
mod erase;
mod error;
mod ids;
pub mod job;
mod lease;
mod maintenance;
mod names;
mod progress;
mod quota;
pub mod read;
mod rollup;
mod run;
pub mod settings;
mod settle;
mod shares;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod times;
mod verdict;
mod walk;
mod workers;

pub use claim::Claimed;
pub use client::Client;
pub use control::{Changed, MOST_AT_ONCE};
pub use counters::Drift;
pub use engine::Engine;
pub use enqueue::{Coalescer, EntryPoint, Receipt};
pub use erase::Erasure;
pub use error::Error;
pub use lease::WorkerInfo;
pub use maintenance::{Removed, Rescued, Retention};
#[cfg(feature = "testing")]
pub use run::test_worker;
pub use run::{Handler, Run, Worker, WorkerOptions, WorkerStopped};
pub use verdict::{MAX_DEFERRALS, RETRY_PRIORITY, Verdict};
pub use walk::{Selection, Step};
pub use workers::LiveWorker;
