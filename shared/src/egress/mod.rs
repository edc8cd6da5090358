//! Outbound HTTP requests to addresses that a tenant controls.
//!
//! Sends one request and returns the response, its body cut at 64 KiB, or an error that reports whether
//! another attempt makes sense. It never reaches a private, local or otherwise special address that the
//! operator did not allow, follows a redirect, uses a proxy from the environment, retries, or logs a
//! header's value.
//!
//! The address connected to is the address that was checked: names are resolved here, once per
//! connection, and only addresses that pass reach the connector. Addresses written in a URL are checked
//! before. [`address`] lists the forbidden ones.

pub mod address;
mod client;
mod dns;
mod error;
mod identity;
mod response;
#[cfg(test)]
mod tests;
mod timeout;
mod tls;

pub use address::is_forbidden;
pub use client::{Egress, EgressRequest, REFUSED_HEADERS};
pub use error::{EgressError, EgressSetupError, Refusal};
pub use identity::{ClientIdentity, InvalidIdentity};
pub use response::{BODY_LIMIT, EgressResponse, HEADER_BYTES_LIMIT, HEADERS_LIMIT, retry_after};
pub use timeout::MAX_TIMEOUT;
pub use tls::client_config;
