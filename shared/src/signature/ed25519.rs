//! Room: the asymmetric keys of webhooks, version `v1a`: ed25519.
//! Takes: a key's text, or nothing for a fresh one; the parts of a message.
//! Gives: its signature, or whether one is right.
//! Never: see the parent module.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::ed25519::signature::MultipartSigner as _;
use ed25519_dalek::{Signature, SigningKey, VerifyingKey as PublicPoint};
use rand::Rng as _;

use super::{InvalidKey, VerifyingKey};

/// What a serialised secret key starts with.
pub(super) const SECRET_PREFIX: &str = "whsk_";

/// What a serialised public key starts with.
const PUBLIC_PREFIX: &str = "whpk_";

/// A key pair whose secret half the sender alone has.
#[derive(Clone)]
pub struct Ed25519Key(SigningKey);

impl Ed25519Key {
    /// A fresh key.
    #[must_use]
    pub fn generate() -> Self {
        let mut seed = [0; 32];
        rand::rng().fill_bytes(&mut seed);
        Self(SigningKey::from_bytes(&seed))
    }

    /// Reads `whsk_` and standard base64 of the seed and the public half, 64 bytes, or of the seed
    /// alone, 32 bytes.
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
                .map_err(|_| InvalidKey::Halves);
        }
        let seed = bytes
            .as_slice()
            .try_into()
            .map_err(|_| InvalidKey::Length("32 or 64"))?;
        Ok(Self(SigningKey::from_bytes(seed)))
    }

    /// The key as its owner keeps it: `whsk_…`, 64 bytes. For the vault.
    #[must_use]
    pub fn expose(&self) -> String {
        format!(
            "{SECRET_PREFIX}{}",
            BASE64.encode(self.0.to_keypair_bytes())
        )
    }

    /// What receivers verify with.
    #[must_use]
    pub fn public(&self) -> Ed25519PublicKey {
        Ed25519PublicKey(self.0.verifying_key())
    }

    /// The signature of one attempt: `v1a,<base64>`. As for [`WebhookSecret::sign`].
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

/// The half of an [`Ed25519Key`] that anybody may know. It shows itself as `whpk_…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ed25519PublicKey(PublicPoint);

impl Ed25519PublicKey {
    /// Reads `whpk_` and standard base64 of 32 bytes.
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
            .map_err(|_| InvalidKey::Point)
    }
}

impl fmt::Display for Ed25519PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", BASE64.encode(self.0.as_bytes()))
    }
}

impl VerifyingKey for Ed25519PublicKey {
    const VERSION: &'static str = "v1a,";

    fn signed_one_of(
        &self,
        mut signatures: impl Iterator<Item = Vec<u8>>,
        id: &str,
        timestamp: i64,
        body: &[u8],
    ) -> bool {
        let message = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
        // Strict: weak keys and signatures with a second form are refused.
        signatures.any(|bytes| {
            Signature::from_slice(&bytes)
                .is_ok_and(|signature| self.0.verify_strict(&message, &signature).is_ok())
        })
    }
}
