//! Kinds of the platform itself: HTTP requests of tenants, bulk actions on jobs, erasure of tenants, anchors of the
//! audit log, maintenance.

pub mod kinds;
pub mod redrive;
mod services;
pub mod tenancy;

pub use services::Services;
