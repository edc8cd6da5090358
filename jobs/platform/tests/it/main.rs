//! The platform's kinds, run by the kit with real receivers and a real database.

#![expect(clippy::unwrap_used, reason = "a test should stop at the first error")]

mod audit_anchor;
mod http_request;
mod maintenance_access_expiry;
mod maintenance_usage_reset;
mod tenant_erase;
