//! The commands that manage a running platform.
//!
//! Each command makes one change or prints one answer, as text or as one JSON object, and follows the
//! same rules as the API.

mod audit;
mod bulk;
mod client;
mod context;
mod job;
mod job_filter;
mod key;
mod limit;
mod limit_value;
mod migrate;
mod queue;
mod reschedule;
mod stats;
mod tenant;
mod user;
mod worker;

pub(crate) use audit::{AuditCommand, audit};
pub(crate) use client::{ClientCommand, client};
pub(crate) use job::{JobCommand, job};
pub(crate) use key::{KeyCommand, key};
pub(crate) use limit::{LimitCommand, limit};
pub(crate) use migrate::migrate;
pub(crate) use queue::{QueueCommand, queue};
pub(crate) use stats::{StatsCommand, stats};
pub(crate) use tenant::{TenantCommand, tenant};
pub(crate) use user::{UserCommand, user};
pub(crate) use worker::{WorkerCommand, worker};
