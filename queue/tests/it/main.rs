//! The engine against a real database, one module a subject.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should stop"
)]

mod cancel;
mod claim;
mod contention;
mod drain;
mod enqueue;
mod faults;
mod isolation;
mod lease;
mod mishaps;
mod plans;
mod retention;
mod support;
mod unique;
mod verdicts;
