//! Integration tests of the API: a listening server on a real database.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test should stop at the first error"
)]

mod access;
mod audit;
mod bad_input;
mod batch;
mod browsers;
mod bulk;
mod erasure;
mod event_types;
mod explain;
mod framework;
mod fuzz;
mod idempotency;
mod isolation;
mod jobs;
mod keys;
mod lists;
mod openapi;
mod parity;
mod portal;
mod request_limits;
mod settings;
mod sql;
mod stats;
mod support;
mod users;
mod webhook_work;
mod webhooks;
