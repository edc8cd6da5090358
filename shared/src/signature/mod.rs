//! Webhook signatures after Standard Webhooks 1.0.0
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).
//!
//! Signs and verifies the exact bytes sent, together with the message id and the attempt's timestamp. It
//! does not serialize bodies, read a clock or store keys, and `Debug` never shows a secret key.

mod ed25519;
mod secret;
#[cfg(test)]
mod tests;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

pub use ed25519::{Ed25519Key, Ed25519PublicKey};
pub use secret::WebhookSecret;
pub(crate) use secret::hmac_sha256;

/// Tolerated difference between a timestamp and the receiver's clock, in both directions; the value of
/// every reference library.
pub const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// The text is not a webhook key. Messages never repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// The prefix is wrong; holds the expected one.
    #[error("must start with {0}")]
    Prefix(&'static str),
    /// The part after the prefix is not padded base64.
    #[error("must be standard base64 after its prefix")]
    Base64,
    /// The key is too short to be safe, or has the wrong length for its type.
    #[error("must have {0} bytes")]
    Length(&'static str),
    /// The public half of a secret ed25519 key does not belong to its seed.
    #[error("contains a seed and a public key that do not match")]
    KeyPairMismatch,
    /// The bytes are not a point on the ed25519 curve.
    #[error("is not a public ed25519 key")]
    NotOnCurve,
}

/// A key that signs an endpoint's messages.
#[derive(Debug, Clone)]
pub enum SigningKey {
    /// A shared secret, signature version `v1`.
    Symmetric(WebhookSecret),
    /// A key pair, signature version `v1a`; the receiver has the public key.
    Asymmetric(Ed25519Key),
}

impl SigningKey {
    /// Parses `whsec_…` or `whsk_…`, as [`WebhookSecret::parse`] and [`Ed25519Key::parse`] do.
    ///
    /// # Errors
    /// [`InvalidKey`].
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        if text.starts_with(secret::PREFIX) {
            WebhookSecret::parse(text).map(Self::Symmetric)
        } else if text.starts_with(ed25519::SECRET_PREFIX) {
            Ed25519Key::parse(text).map(Self::Asymmetric)
        } else {
            Err(InvalidKey::Prefix("`whsec_` or `whsk_`"))
        }
    }

    /// The version prefix of its signatures: `v1` or `v1a`.
    #[must_use]
    pub const fn algorithm(&self) -> &'static str {
        match self {
            Self::Symmetric(_) => "v1",
            Self::Asymmetric(_) => "v1a",
        }
    }

    /// The text of the key: `whsec_…` or `whsk_…`.
    #[must_use]
    pub fn expose(&self) -> String {
        match self {
            Self::Symmetric(secret) => secret.expose(),
            Self::Asymmetric(key) => key.expose(),
        }
    }

    /// The public key for receivers, `whpk_…`; `None` for a shared secret.
    #[must_use]
    pub fn public(&self) -> Option<String> {
        match self {
            Self::Symmetric(_) => None,
            Self::Asymmetric(key) => Some(key.public().to_string()),
        }
    }

    /// The signature of one attempt: `v1,…` or `v1a,…`; see [`WebhookSecret::sign`].
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        match self {
            Self::Symmetric(secret) => secret.sign(id, timestamp, body),
            Self::Asymmetric(key) => key.sign(id, timestamp, body),
        }
    }
}

impl From<WebhookSecret> for SigningKey {
    fn from(secret: WebhookSecret) -> Self {
        Self::Symmetric(secret)
    }
}

impl From<Ed25519Key> for SigningKey {
    fn from(key: Ed25519Key) -> Self {
        Self::Asymmetric(key)
    }
}

/// The value of `webhook-signature` for an endpoint with several keys, as during a rotation: one
/// signature per key, separated by spaces, in the given order. Put the current key first.
#[must_use]
pub fn sign_all(keys: &[SigningKey], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signatures: Vec<String> = keys
        .iter()
        .map(|key| key.sign(id, timestamp, body))
        .collect();
    signatures.join(" ")
}

/// A key that verifies signatures of its version.
pub trait VerifyingKey {
    /// Prefix of its signatures, with the comma.
    const VERSION: &'static str;

    /// Whether one of the decoded signatures is valid for the message.
    fn matches_any(
        &self,
        signatures: impl Iterator<Item = Vec<u8>>,
        id: &str,
        timestamp: i64,
        body: &[u8],
    ) -> bool;
}

/// Why a message is not authentic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The id contains a `.`, which makes the signed text ambiguous.
    #[error("the message id is malformed")]
    Id,
    /// Signed longer ago than the tolerance; possibly a replay.
    #[error("the message timestamp is too old")]
    TooOld,
    /// Signed further in the future than the tolerance; one of the clocks is wrong.
    #[error("the message timestamp is in the future")]
    InFuture,
    /// The header contains no signature of the key's version.
    #[error("the message carries no signature of the key's version")]
    NoSignature,
    /// No signature is valid for this message and key.
    #[error("no signature matches")]
    Mismatch,
}

/// Verifies that one of the signatures in `header` is valid for the message (§ "Verifying webhook
/// authenticity").
///
/// `timestamp` and `now` are in Unix seconds. Signatures of other versions are ignored. HMACs are
/// compared in constant time.
///
/// # Errors
/// [`VerifyError`].
pub fn verify<K: VerifyingKey>(
    key: &K,
    id: &str,
    timestamp: i64,
    header: &str,
    body: &[u8],
    now: i64,
    tolerance: Duration,
) -> Result<(), VerifyError> {
    if id.contains('.') {
        return Err(VerifyError::Id);
    }
    if now.abs_diff(timestamp) > tolerance.as_secs() {
        return Err(if timestamp < now {
            VerifyError::TooOld
        } else {
            VerifyError::InFuture
        });
    }
    let mut signatures = header
        .split(' ')
        .filter_map(|signature| signature.strip_prefix(K::VERSION))
        .peekable();
    signatures.peek().ok_or(VerifyError::NoSignature)?;
    let signatures = signatures.filter_map(|signature| BASE64.decode(signature).ok());
    if key.matches_any(signatures, id, timestamp, body) {
        Ok(())
    } else {
        Err(VerifyError::Mismatch)
    }
}
