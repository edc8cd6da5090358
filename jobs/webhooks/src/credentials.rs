//! What an endpoint is called with beside its signing secret: an OAuth 2.0 client, a client certificate.

use serde::{Deserialize, Serialize};

/// How a token is had before a request (RFC 6749 §4.4, client credentials).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OAuth2 {
    /// Where it is asked for.
    pub token_url: String,
    /// Who asks.
    pub client_id: String,
    /// For what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// For whom, which some servers want to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

/// The same with its secret, as somebody gives it.
#[derive(Clone)]
pub struct NewOAuth2 {
    /// Where a token is asked for.
    pub token_url: String,
    /// Who asks.
    pub client_id: String,
    /// How they prove it.
    pub client_secret: String,
    /// For what.
    pub scope: Option<String>,
    /// For whom.
    pub audience: Option<String>,
}

impl std::fmt::Debug for NewOAuth2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewOAuth2(redacted)")
    }
}

/// A certificate to show (mutual TLS), and its key.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The certificate and those between it and its root, as PEM.
    pub certificate: String,
    /// Its private key, as PEM.
    pub private_key: String,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientCertificate(redacted)")
    }
}
