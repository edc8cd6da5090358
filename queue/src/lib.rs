//! The queue engine of Harkara: enqueue, claim, settle, leases, maintenance, the read side, and the
//! apalis backend that runs it.
//!
//! This is the only crate that names apalis or the `queue` schema. Its line:
//!
//! ```text
//! NewJob ──▶ enqueue ──▶ Postgres ──▶ claim ──▶ run (handler) ──▶ verdict ──▶ settle ──▶ Postgres
//! ```

mod bulk_scan;
mod claim;
mod control;
mod counters;
mod engine;
mod enqueue;
mod envelope;
mod erase;
mod error;
mod ids;
mod interner;
pub mod job;
mod lease;
mod maintenance;
mod progress;
mod quota;
pub mod read;
mod rollup;
mod run;
pub mod settings;
mod settle;
mod shares;
mod sql_client;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod times;
mod verdict;
mod workers;

pub use bulk_scan::{BulkSelection, BulkStep};
pub use claim::Claimed;
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
