//! The queue engine of Harkara: enqueue, claim, settle, leases, maintenance, the read side, and the
//! apalis backend that runs jobs.
//!
//! The only crate that uses apalis or the `queue` schema. The way of a job:
//!
//! ```text
//! NewJob ──▶ enqueue ──▶ Postgres ──▶ claim ──▶ run (handler) ──▶ verdict ──▶ settle ──▶ Postgres
//! ```

mod bulk_scan;
mod claim;
mod claimed;
mod control;
mod counters;
mod engine;
mod enqueue;
mod envelope;
mod erase;
mod error;
mod fair_share_store;
mod ids;
mod interner;
pub mod job;
mod latency_histogram;
mod lease;
mod maintenance;
mod progress;
mod quota;
pub mod read;
mod rollup;
mod run;
pub mod settings;
mod settle;
mod sql_client;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod verdict;
mod workers;

pub use bulk_scan::{BulkSelection, BulkStep};
pub use claimed::ClaimedJob;
pub use control::{ChangeOutcome, MAX_JOBS_PER_CHANGE};
pub use counters::Drift;
pub use engine::Engine;
pub use enqueue::{Coalescer, Inserted, Quota, Receipt};
pub use erase::ErasureProgress;
pub use error::Error;
pub use lease::WorkerInfo;
pub use maintenance::{Removed, Rescued, Retention};
#[cfg(feature = "testing")]
pub use run::test_worker;
pub use run::{Handler, Run, Worker, WorkerOptions, WorkerStopped};
pub use sql_client::SqlClient;
pub use verdict::{MAX_DEFERRALS, RETRY_PRIORITY, Verdict};
pub use workers::LiveWorker;
