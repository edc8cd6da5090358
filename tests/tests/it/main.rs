//! End-to-end tests of the platform: real processes, a real database, real receivers.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test should stop at the first error"
)]

mod commands;
mod commands_audit;
mod commands_jobs;
mod commands_users;
mod crash;
mod documents;
mod flow;
mod imports;
mod memory;
mod outage;
mod receivers;
mod redrive;
mod roles;
mod scheduling;
mod schema;
mod startup;
mod transactions;
mod up;
mod webhook_order;
