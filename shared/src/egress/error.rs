//! Errors of outbound requests.
//!
//! Maps the HTTP client's errors to a few classes, each with a stable code and whether it is terminal.
//! Messages never contain a URL or a header's value.

use std::error::Error;
use std::io;
use std::time::Duration;

use super::timeout::CONNECT_TIMEOUT;

/// Why a request was not sent at all. None of these is temporary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The scheme is neither `https` nor `http`.
    #[error("only https URLs can be called")]
    Scheme,
    /// The URL contains a user name or a password.
    #[error("the URL must not contain a user name or a password")]
    UserInfo,
    /// The method is `CONNECT`, which opens a tunnel instead of returning a response.
    #[error("the method CONNECT is not allowed")]
    Method,
    /// The host is, or resolves only to, private, local or otherwise special addresses.
    #[error("the host is not at a public address")]
    Address,
    /// Plain HTTP or a port other than 80 and 443, to an address the operator did not allow.
    #[error("only https on port 443 can be called")]
    NotAllowed,
}

/// Why there is no response. Messages contain neither the URL nor a header's value.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// Not a URL, or a URL without a host.
    #[error("invalid URL: {0}")]
    InvalidUrl(String),
    /// The request violates a rule; nothing was sent.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// A header that belongs to the connection, which callers cannot set.
    #[error("the header `{0}` cannot be set")]
    InvalidHeader(String),
    /// The name is unknown, or no name server answered.
    #[error("name resolution failed: {0}")]
    Dns(String),
    /// No connection: the port is closed, or the host is unreachable.
    #[error("connection failed: {0}")]
    Connect(String),
    /// The certificate is not trusted, or the TLS handshake failed.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// No connection, or no complete response, within `limit`.
    #[error("timed out after {}", crate::duration::format(*limit))]
    Timeout {
        /// The time limit that passed.
        limit: Duration,
    },
    /// The connection broke, or the response is not HTTP.
    #[error("the connection failed during the exchange: {0}")]
    Io(String),
}

impl EgressError {
    /// Whether every further attempt would fail in the same way.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(
            self,
            Self::InvalidUrl(_) | Self::Refused(_) | Self::InvalidHeader(_)
        )
    }

    /// The stable code of the class, for stored attempts and metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidUrl(_) => "egress_invalid_url",
            Self::Refused(_) => "egress_refused",
            Self::InvalidHeader(_) => "egress_invalid_header",
            Self::Dns(_) => "egress_dns",
            Self::Connect(_) => "egress_connect",
            Self::Tls(_) => "egress_tls",
            Self::Timeout { .. } => "egress_timeout",
            Self::Io(_) => "egress_io",
        }
    }
}

/// The name could not be resolved: it is unknown, or no server answered.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct DnsFailure(pub(super) io::Error);

/// The client could not be built.
#[derive(Debug, thiserror::Error)]
pub enum EgressSetupError {
    /// The TLS library rejected its configuration.
    #[error("TLS setup failed")]
    Tls(#[from] rustls::Error),
    /// The HTTP client rejected its configuration.
    #[error("HTTP client setup failed")]
    Client(#[from] reqwest::Error),
}

impl From<reqwest::Error> for EgressError {
    fn from(error: reqwest::Error) -> Self {
        // The innermost cause decides; the outer errors only locate it.
        for cause in causes(&error) {
            if let Some(refusal) = cause.downcast_ref::<Refusal>() {
                return Self::Refused(*refusal);
            }
            if let Some(failure) = cause.downcast_ref::<DnsFailure>() {
                return Self::Dns(failure.to_string());
            }
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return Self::Tls(tls.to_string());
            }
        }
        // The outermost error contains the URL, which can hold a secret; the innermost is the most specific.
        let root = causes(&error)
            .skip(1)
            .last()
            .map_or_else(String::new, ToString::to_string);
        if error.is_builder() {
            Self::InvalidUrl(root)
        } else if error.is_connect() && error.is_timeout() {
            Self::Timeout {
                limit: CONNECT_TIMEOUT,
            }
        } else if error.is_connect() {
            Self::Connect(root)
        } else if root.starts_with("received fatal alert") {
            // HTTP/2 keeps only the text of a TLS error, not its type.
            Self::Tls(root)
        } else {
            Self::Io(root)
        }
    }
}

/// The error and its causes, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        // `io::Error` does not return the error it wraps from `source`, and TLS errors are wrapped in one.
        match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        }
    })
}
