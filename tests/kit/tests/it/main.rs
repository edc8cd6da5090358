//! The helpers for testing kinds, tested.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should stop"
)]

mod clock;
mod document;
mod drain;
mod enqueued;
mod example;
mod odd;
mod perform;
