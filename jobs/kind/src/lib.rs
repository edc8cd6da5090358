//! The trait of a kind of job, and code that kinds of several domains share.
//!
//! The catalogue (`harkara-jobs`) lists the kinds; a domain crate implements them. Neither this crate nor a
//! domain knows the catalogue.

mod cleanup;
pub mod field_error;
pub mod http_call;
mod kind;
mod services;
mod verdict;

pub use cleanup::{CleanupError, RemovedRows, TenantCleanup};
pub use field_error::FieldError;
pub use kind::{DEFAULT_PRIORITY, JobKind, check, new_job, run};
pub use services::Services;
pub use verdict::database_verdict;
