//! The webhooks' kinds, run by the kit against real receivers and a real database.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod webhook_deliver;
mod webhooks;
