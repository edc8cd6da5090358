//! Room: signatures of webhooks, as Standard Webhooks 1.0.0 has them
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).
//! Takes: a key, the message's id, the time of the attempt and the very bytes that are sent.
//! Gives: the value of `webhook-signature`, or whether one is right.
//! Never: serialises a body, reads a clock, stores a key or prints a secret one.

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

/// How far a timestamp may lie from the receiver's clock, either way; what every reference library
/// allows.
pub const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// The text is not a key of webhooks. Never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// It starts differently.
    #[error("must start with {0}")]
    Prefix(&'static str),
    /// What follows the prefix is not base64 with its padding.
    #[error("must be standard base64 after its prefix")]
    Base64,
    /// It is too short to be safe, or has another length than its kind.
    #[error("must have {0} bytes")]
    Length(&'static str),
    /// A secret ed25519 key carries a public half that is not its own.
    #[error("holds a seed and a public half that do not belong together")]
    Halves,
    /// The bytes are no public ed25519 key.
    #[error("is no public ed25519 key")]
    Point,
}

/// A key that an endpoint's messages are signed with.
#[derive(Debug, Clone)]
pub enum SigningKey {
    /// A secret that the receiver has too: `v1`.
    Symmetric(WebhookSecret),
    /// A key pair of which the receiver has the public half: `v1a`.
    Asymmetric(Ed25519Key),
}

impl SigningKey {
    /// Reads `whsec_…` or `whsk_…`, as [`WebhookSecret::parse`] and [`Ed25519Key::parse`] do.
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

    /// What its signatures begin with: `v1` or `v1a`.
    #[must_use]
    pub const fn algorithm(&self) -> &'static str {
        match self {
            Self::Symmetric(_) => "v1",
            Self::Asymmetric(_) => "v1a",
        }
    }

    /// The key as its owner keeps it: `whsec_…` or `whsk_…`.
    #[must_use]
    pub fn expose(&self) -> String {
        match self {
            Self::Symmetric(secret) => secret.expose(),
            Self::Asymmetric(key) => key.expose(),
        }
    }

    /// The public half as receivers are given it, `whpk_…`; `None` for a shared secret.
    #[must_use]
    pub fn public(&self) -> Option<String> {
        match self {
            Self::Symmetric(_) => None,
            Self::Asymmetric(key) => Some(key.public().to_string()),
        }
    }

    /// The signature of one attempt: `v1,…` or `v1a,…`. As for [`WebhookSecret::sign`].
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

/// The value of `webhook-signature` for an endpoint with several keys, as while one is rotated: one
/// signature a key, separated by spaces, in the order given. Put the current key first.
#[must_use]
pub fn sign_all(keys: &[SigningKey], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signatures: Vec<String> = keys
        .iter()
        .map(|key| key.sign(id, timestamp, body))
        .collect();
    signatures.join(" ")
}

/// A key that tells right signatures of its version from wrong ones.
pub trait VerifyingKey {
    /// What its signatures start with.
    const VERSION: &'static str;

    /// Whether one of the signatures, given as bytes, is that of the message.
    fn signed_one_of(
        &self,
        signatures: impl Iterator<Item = Vec<u8>>,
        id: &str,
        timestamp: i64,
        body: &[u8],
    ) -> bool;
}

/// Why a message is not to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The id holds a `.`, so that the signed text could be read in two ways.
    #[error("the message id is malformed")]
    Id,
    /// Signed longer ago than the tolerance: perhaps a replay.
    #[error("the message timestamp is too old")]
    TooOld,
    /// Signed further ahead than the tolerance: one of the clocks is wrong.
    #[error("the message timestamp is in the future")]
    InFuture,
    /// The header holds no signature of the key's version.
    #[error("the message carries no signature of the key's version")]
    NoSignature,
    /// None of the signatures is that of this message under this key.
    #[error("no signature matches")]
    Mismatch,
}

/// Whether one of the signatures in `header` is that of the message (§ "Verifying webhook
/// authenticity").
///
/// `timestamp` and `now` are in Unix seconds. Signatures of other versions are passed over, and
/// those that a secret made are compared in constant time.
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
    if key.signed_one_of(signatures, id, timestamp, body) {
        Ok(())
    } else {
        Err(VerifyError::Mismatch)
    }
}
