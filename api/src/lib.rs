//! The HTTP API of Harkara: who calls, what they ask, what the queue and the resources answer.
//!
//! ```text
//! request ──▶ observe ──▶ auth ──▶ routes ──▶ queue, jobs ──▶ answer, or a problem (RFC 9457)
//! ```
//!
//! This crate holds no state of a job and no rule about one: it checks what callers send and hands
//! it on in one tenant's transaction.

pub mod access;
mod auth;
mod body;
mod cursor;
mod docs;
mod faults;
mod idempotency;
mod json;
pub mod limits;
mod observe;
mod openapi;
mod origin;
mod pages;
pub mod people;
pub mod portal;
mod problem;
mod query;
mod routes;
mod server;
mod shield;
mod state;
mod time;
mod usage;

pub use routes::{representation, router};
pub use server::{NEEDED, run, serve};
pub use state::ApiState;
