//! The platform as a whole: real processes, a real database, real receivers.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should stop"
)]

mod crash;
mod documents;
mod flow;
mod hand;
mod hand_audit;
mod hand_jobs;
mod hand_users;
mod memory;
mod outage;
mod receivers;
mod redrive;
mod roles;
mod rooms;
mod scheduling;
mod start;
mod transactions;
mod up;
mod webhook_order;
