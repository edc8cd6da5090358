//! Room: the symmetric keys of webhooks, version `v1`: HMAC-SHA256.
//! Takes: a secret's text, or nothing for a fresh one; the parts of a message.
//! Gives: its signature, or whether one is right.
//! Never: see the parent module.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::Rng as _;
use sha2::Sha256;

use super::{InvalidKey, VerifyingKey};

/// What a serialised secret starts with.
pub(super) const PREFIX: &str = "whsec_";

/// How many bytes a secret may have.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A secret that sender and receiver share: 24 to 64 bytes.
#[derive(Clone)]
pub struct WebhookSecret(Vec<u8>);

impl WebhookSecret {
    /// A fresh secret of 32 random bytes.
    #[must_use]
    pub fn generate() -> Self {
        let mut key = vec![0; 32];
        rand::rng().fill_bytes(&mut key);
        Self(key)
    }

    /// Reads `whsec_` and standard base64.
    ///
    /// # Errors
    /// [`InvalidKey`], which never repeats the text.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let encoded = text
            .strip_prefix(PREFIX)
            .ok_or(InvalidKey::Prefix("`whsec_`"))?;
        let key = BASE64.decode(encoded).map_err(|_| InvalidKey::Base64)?;
        if BYTES.contains(&key.len()) {
            Ok(Self(key))
        } else {
            Err(InvalidKey::Length("24 to 64"))
        }
    }

    /// The secret as its owner keeps it: `whsec_…`. For the answer that shows it and for the vault.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}", BASE64.encode(&self.0))
    }

    /// The signature of one attempt: `v1,<base64>` (§ "Signature scheme").
    ///
    /// `timestamp` is in Unix seconds and that of this attempt; `body` the bytes as they are sent.
    /// `id` must hold no `.`, which ends it in the signed text.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mac = self.mac(id, timestamp, body).finalize().into_bytes();
        format!("v1,{}", BASE64.encode(mac))
    }

    fn mac(&self, id: &str, timestamp: i64, body: &[u8]) -> Hmac<Sha256> {
        hmac_sha256(&self.0)
            .chain_update(id)
            .chain_update(format!(".{timestamp}."))
            .chain_update(body)
    }

    /// Vector B of the tests has a secret of 18 bytes, which `parse` refuses.
    #[cfg(test)]
    pub(super) const fn of_any_length(key: Vec<u8>) -> Self {
        Self(key)
    }
}

impl VerifyingKey for WebhookSecret {
    const VERSION: &'static str = "v1,";

    fn signed_one_of(
        &self,
        mut signatures: impl Iterator<Item = Vec<u8>>,
        id: &str,
        timestamp: i64,
        body: &[u8],
    ) -> bool {
        let mac = self.mac(id, timestamp, body);
        // The comparison of `hmac` takes the same time wherever the bytes differ.
        signatures.any(|signature| mac.clone().verify_slice(&signature).is_ok())
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(redacted)")
    }
}

/// HMAC-SHA256 with a key of at most 64 bytes, which is all that this crate has.
///
/// Such a key is padded with zeros to a block (RFC 2104 §2). Giving the whole block spares an error
/// that cannot come.
pub(crate) fn hmac_sha256(key: &[u8]) -> Hmac<Sha256> {
    let mut block = [0; 64];
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    Hmac::new(&block.into())
}
