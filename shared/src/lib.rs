//! What two or more crates of Harkara need: ids, durations, backoff, signatures, secrets, outbound
//! HTTP, configuration, database access and telemetry.
//!
//! This crate imports no other crate of the workspace and knows nothing of jobs, queues or routes.

pub mod anchors;
pub mod api_key;
pub mod audit;
pub mod backoff;
pub mod batcher;
pub mod blob;
pub mod clock;
pub mod config;
pub mod database;
pub mod duration;
pub mod egress;
pub mod id;
pub mod json;
pub mod process;
#[cfg(feature = "openapi")]
pub mod schema;
pub mod signature;
pub mod telemetry;
pub mod vault;
