//! Integration tests of the engine against a real database, one module per subject.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test should stop at the first error"
)]

mod abnormal_runs;
mod breaker;
mod bulk_changes;
mod bulk_scan;
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
mod isolation;
mod lease;
mod limits;
mod lost_workers;
mod open_transactions;
mod ordered;
mod outages;
mod packed;
mod packed_control;
mod packed_pages;
mod packed_read;
mod packed_retention;
mod parking;
mod plans;
mod plans_inside;
mod poison;
mod priority_aging;
mod quota;
mod retention;
mod settings;
mod slots;
mod stress;
mod support;
mod unique;
mod verdicts;
mod workers;
