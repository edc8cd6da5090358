//! The engine against a real database, one module a subject.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should stop"
)]

mod breaker;
mod cancel;
mod claim;
mod client;
mod contention;
mod drain;
mod enqueue;
mod fairness;
mod faults;
mod fleet;
mod isolation;
mod lease;
mod limits;
mod mishaps;
mod ordered;
mod packed;
mod packed_control;
mod packed_read;
mod packed_retention;
mod parking;
mod plans;
mod plans_inside;
mod poison;
mod quota;
mod retention;
mod settings;
mod support;
mod turmoil;
mod unique;
mod verdicts;
