//! The read side: jobs, pages of jobs, the log of a job's runs, why a job does not run, how queues are
//! doing, and statistics of the past.
//!
//! Works in a tenant's transaction and finds nothing outside of one. Every query examines a bounded number
//! of rows. Never shows parcels, nor another tenant's rows.

mod attempts;
mod counts;
mod explain;
mod filter;
mod find;
mod list;
pub mod stats;

pub use attempts::attempts;
pub use counts::QueueCounts;
pub use explain::{Explanation, Reason, ReasonCode, explain};
pub use filter::JobFilter;
pub use find::{job, jobs};
pub use list::{JobPage, list};
