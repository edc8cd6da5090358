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
mod field_errors;
mod idempotency;
mod json;
pub mod limits;
mod openapi;
mod pages;
mod paging;
pub mod people;
pub mod portal;
mod problem;
mod query;
mod request_context;
mod request_layer;
mod routes;
mod schema;
mod security_headers;
mod server;
mod state;
mod time;
mod usage;

pub use routes::{representation, router};
pub use server::{NEEDED, run, serve};
pub use state::ApiState;
