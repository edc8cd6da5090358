//! The catalogue of all kinds of job, and the dependencies of their handlers.
//!
//! Handlers report what went wrong; the queue decides what happens next. They write their own resources, never
//! a job's state, and reach the database through `TenantTx` only.

pub mod catalogue;
mod kind;
pub mod publish;
mod services;

pub use services::Services;
