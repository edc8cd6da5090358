//! One module a kind.

pub mod webhook_deliver;
pub mod webhook_recover;
