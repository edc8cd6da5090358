//! Tests of the test helpers for kinds.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test should stop at the first error"
)]

mod clock;
mod document;
mod drain;
mod enqueued;
mod example;
mod odd;
mod perform;
