//! The HTTP API of Harkara.
//!
//! ```text
//! request ──▶ request_layer ──▶ auth ──▶ routes ──▶ queue, jobs ──▶ response, or a problem (RFC 9457)
//! ```
//!
//! Handlers validate requests and run them in one transaction of the caller's tenant. Rules about jobs and
//! their state belong to the queue.

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
pub mod portal;
mod problem;
mod query;
mod request_context;
mod request_layer;
mod routes;
mod schema;
mod security_headers;
mod server;
mod sign_in;
mod state;
mod time;
mod usage;

pub use routes::{representation, router};
pub use server::{NEEDED, run, serve};
pub use state::ApiState;
