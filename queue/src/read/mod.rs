//! Room: the read side.
//! Takes: a tenant's transaction. Gives: jobs, pages of jobs, the log of a job's runs.
//! Never: counts rows, shows parcels, reads another tenant's rows; outside of a tenant's transaction
//! it finds nothing.

mod attempts;
mod find;
mod list;

pub use attempts::attempts;
pub use find::{job, jobs};
pub use list::{JobFilter, list};
