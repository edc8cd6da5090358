//! The kinds of the platform, one module each.

pub mod audit_anchor;
pub mod http_request;
pub mod maintenance_access_expiry;
pub mod maintenance_retention;
pub mod maintenance_usage_reset;
pub mod retry_redrive;
pub mod tenant_erase;
