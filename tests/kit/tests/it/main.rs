//! The helpers for testing kinds, tested.

mod clock;
mod document;
mod drain;
mod enqueued;
mod example;
mod odd;
mod perform;
