//! The kinds of job Harkara runs, the resources that cause them, and the catalogue that names them.
//!
//! Handlers say what went wrong; what happens next is decided in the queue. They write their own
//! resources, never a job's state, and reach the database through `TenantTx` only.

pub mod catalogue;
pub mod fault;
pub mod kinds;
pub mod publish;
pub mod redrive;
mod services;
pub mod tenancy;
pub mod webhook;

pub use services::Services;
