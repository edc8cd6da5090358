//! Asymmetric webhook keys, signature version `v1a`: ed25519.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::ed25519::signature::MultipartSigner as _;
use ed25519_dalek::{Signature, SigningKey, VerifyingKey as PublicPoint};
use rand::Rng as _;

use super::{InvalidKey, VerifyingKey};

/// Prefix of the text of a secret key.
pub(super) const SECRET_PREFIX: &str = "whsk_";

/// Prefix of the text of a public key.
const PUBLIC_PREFIX: &str = "whpk_";

/// A key pair; only the sender has the secret key.
#[derive(Clone)]
pub struct Ed25519Key(SigningKey);

impl Ed25519Key {
    /// Generates a random key pair.
    #[must_use]
    pub fn generate() -> Self {
        let mut seed = [0; 32];
        rand::rng().fill_bytes(&mut seed);
        Self(SigningKey::from_bytes(&seed))
    }

    /// Parses `whsk_` and standard base64 of the seed and the public key, 64 bytes, or of the seed alone,
    /// 32 bytes.
    ///
    /// # Errors
    /// [`InvalidKey`], which never repeats the text.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let encoded = text
            .strip_prefix(SECRET_PREFIX)
            .ok_or(InvalidKey::Prefix("`whsk_`"))?;
        let bytes = BASE64.decode(encoded).map_err(|_| InvalidKey::Base64)?;
        if let Ok(pair) = bytes.as_slice().try_into() {
            return SigningKey::from_keypair_bytes(pair)
                .map(Self)
                .map_err(|_| InvalidKey::KeyPairMismatch);
        }
        let seed = bytes
            .as_slice()
            .try_into()
            .map_err(|_| InvalidKey::Length("32 or 64"))?;
        Ok(Self(SigningKey::from_bytes(seed)))
    }

    /// The text of the key pair, `whsk_…` with 64 bytes, to be stored in the vault.
    #[must_use]
    pub fn expose(&self) -> String {
        format!(
            "{SECRET_PREFIX}{}",
            BASE64.encode(self.0.to_keypair_bytes())
        )
    }

    /// The public key, with which receivers verify.
    #[must_use]
    pub fn public(&self) -> Ed25519PublicKey {
        Ed25519PublicKey(self.0.verifying_key())
    }

    /// The signature of one attempt: `v1a,<base64>`; see [`WebhookSecret::sign`].
    ///
    /// [`WebhookSecret::sign`]: super::WebhookSecret::sign
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let middle = format!(".{timestamp}.");
        let signature: Signature = self
            .0
            .multipart_sign(&[id.as_bytes(), middle.as_bytes(), body]);
        format!("v1a,{}", BASE64.encode(signature.to_bytes()))
    }
}

impl fmt::Debug for Ed25519Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ed25519Key(redacted)")
    }
}

/// The public key of an [`Ed25519Key`], displayed as `whpk_…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ed25519PublicKey(PublicPoint);

impl Ed25519PublicKey {
    /// Parses `whpk_` and standard base64 of 32 bytes.
    ///
    /// # Errors
    /// [`InvalidKey`].
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let encoded = text
            .strip_prefix(PUBLIC_PREFIX)
            .ok_or(InvalidKey::Prefix("`whpk_`"))?;
        let bytes = BASE64.decode(encoded).map_err(|_| InvalidKey::Base64)?;
        let bytes = bytes
            .as_slice()
            .try_into()
            .map_err(|_| InvalidKey::Length("32"))?;
        PublicPoint::from_bytes(bytes)
            .map(Self)
            .map_err(|_| InvalidKey::NotOnCurve)
    }
}

impl fmt::Display for Ed25519PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", BASE64.encode(self.0.as_bytes()))
    }
}

impl VerifyingKey for Ed25519PublicKey {
    const VERSION: &'static str = "v1a,";

    fn matches_any(
        &self,
        mut signatures: impl Iterator<Item = Vec<u8>>,
        id: &str,
        timestamp: i64,
        body: &[u8],
    ) -> bool {
        let message = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
        // Strict verification rejects weak keys and malleable signatures.
        signatures.any(|bytes| {
            Signature::from_slice(&bytes)
                .is_ok_and(|signature| self.0.verify_strict(&message, &signature).is_ok())
        })
    }
}
