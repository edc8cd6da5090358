//! The kinds of the webhook domain, one module each.

pub mod webhook_deliver;
pub mod webhook_recover;
