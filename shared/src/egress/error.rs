//! Room: what can go wrong with an outbound request.
//! Takes: the HTTP client's error.
//! Gives: one of a few classes, each with a stable code and a word on whether to try again.
//! Never: repeats a URL or a header's value.

use std::error::Error;
use std::io;
use std::time::Duration;

use super::timeout::CONNECT_TIMEOUT;

/// Why a request was not made at all. None of these passes with time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither `https` nor `http`.
    #[error("only https URLs may be called")]
    Scheme,
    /// A user name or a password stands in the URL.
    #[error("a URL must not hold a user name or a password")]
    UserInfo,
    /// `CONNECT` asks for a tunnel, not for an answer.
    #[error("the method CONNECT may not be used")]
    Method,
    /// The host is, or resolves only to, private, local or otherwise special addresses.
    #[error("the host is not at a public address")]
    Address,
    /// Plain HTTP or a port other than 80 and 443, to an address the operator does not allow.
    #[error("only https on port 443 may be called")]
    NotAllowed,
}

/// Why there is no answer. Messages hold neither the URL nor a header's value.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// Not a URL, or one without a host.
    #[error("invalid URL: {0}")]
    InvalidUrl(String),
    /// The request is against the rules; nothing was sent.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// A header that belongs to the connection, which callers may not set.
    #[error("the header `{0}` may not be set")]
    InvalidHeader(String),
    /// The name is unknown, or no server could tell.
    #[error("name resolution failed: {0}")]
    Dns(String),
    /// No connection: nobody listens, or no way leads there.
    #[error("connection failed: {0}")]
    Connect(String),
    /// A connection, but no trust: the certificate, or the handshake.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// Too slow; `limit` is what passed without a connection, or without a complete answer.
    #[error("timed out after {}", crate::duration::format(*limit))]
    Timeout {
        /// How long was waited.
        limit: Duration,
    },
    /// The connection broke, or what came over it is not HTTP.
    #[error("the exchange broke off: {0}")]
    Io(String),
}

impl EgressError {
    /// Whether another attempt must fail in the same way.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(
            self,
            Self::InvalidUrl(_) | Self::Refused(_) | Self::InvalidHeader(_)
        )
    }

    /// The class as a stable name, for stored attempts and metrics.
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

/// The client could not be built: TLS has no usable settings.
#[derive(Debug, thiserror::Error)]
pub enum EgressSetupError {
    /// From the TLS library.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// From the HTTP client.
    #[error("the HTTP client cannot be set up")]
    Client(#[from] reqwest::Error),
}

impl From<reqwest::Error> for EgressError {
    fn from(error: reqwest::Error) -> Self {
        // What the layers below said first decides; the layers above only say where it happened.
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
        // The outermost error names the URL, which may hold a secret; the innermost says the most.
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
            // HTTP/2 keeps only the words of what TLS said.
            Self::Tls(root)
        } else {
            Self::Io(root)
        }
    }
}

/// The error and all that caused it, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        // `io::Error` hides the error it wraps from `source`, and TLS errors come wrapped so.
        match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        }
    })
}
