//! Credentials for calling an endpoint, in addition to its signing keys: an OAuth 2.0 client, a client certificate.

use serde::{Deserialize, Serialize};

/// An OAuth 2.0 client that obtains access tokens for an endpoint (RFC 6749 §4.4, client credentials). Its secret is
/// stored apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OAuth2 {
    /// URL of the token server.
    pub token_url: String,
    /// The client's id at the token server.
    pub client_id: String,
    /// Scope to request; `None` for the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Audience to request, which some servers require.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

/// An OAuth 2.0 client with its secret, as a user sets it.
#[derive(Clone)]
pub struct NewOAuth2 {
    /// URL of the token server.
    pub token_url: String,
    /// The client's id at the token server.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: String,
    /// Scope to request; `None` for the server's default.
    pub scope: Option<String>,
    /// Audience to request, which some servers require.
    pub audience: Option<String>,
}

impl std::fmt::Debug for NewOAuth2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewOAuth2(redacted)")
    }
}

/// A client certificate for mutual TLS, with its private key.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The certificate chain without its root, as PEM.
    pub certificate: String,
    /// Private key of the certificate, as PEM.
    pub private_key: String,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientCertificate(redacted)")
    }
}
