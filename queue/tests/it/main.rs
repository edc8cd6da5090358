//! The engine against a real database, one module a subject.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should stop"
)]

mod ageing;
mod breaker;
mod cancel;
mod claim;
mod client;
mod contention;
mod counts;
mod drain;
mod enqueue;
mod erase;
mod expiry;
mod explain;
mod fairness;
mod faults;
mod fleet;
mod held_open;
mod isolation;
mod lease;
mod limits;
mod many;
mod mishaps;
mod ordered;
mod packed;
mod packed_control;
mod packed_pages;
mod packed_read;
mod packed_retention;
mod parking;
mod places;
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
mod walk;
mod workers;
