//! Room: the read side.
//! Room: the read side.
//! Takes: a tenant's transaction. Gives: jobs, pages of jobs, the log of a job's runs, why one does not
//! run, how queues are doing, the past in numbers.
//! Never: counts rows without end, shows parcels, reads another tenant's rows; outside of a tenant's
//! transaction it finds nothing.

mod attempts;
mod counts;
mod explain;
mod find;
mod list;
pub mod stats;

pub use attempts::attempts;
pub use counts::QueueCounts;
pub use explain::{Explanation, Reason, ReasonCode, explain};
pub use find::{job, jobs};
pub use list::{JobFilter, JobPage, list};
