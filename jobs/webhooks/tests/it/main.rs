//! The kinds of webhooks, run by the kit with real receivers and a real database.

#![expect(clippy::unwrap_used, reason = "a test should stop at the first error")]

mod webhook_deliver;
mod webhooks;
