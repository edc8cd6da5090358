//! Room: every request to an address that a tenant can steer.
//! Takes: a method, a URL, headers and a body, perhaps a certificate to show, and the networks the
//! operator allows although they are private.
//! Gives: the answer, cut at 64 KiB, or an error that says whether another attempt makes sense.
//! Never: reaches a private, local or otherwise special address that is not allowed, follows a
//! redirect, uses a proxy from the environment, retries, or shows a header's value.
//!
//! The address that is connected to is the one that was judged: names are resolved here, once a
//! connection, and only addresses that pass reach the connector. Addresses written in a URL are
//! judged before. See [`address`] for which are refused.

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
