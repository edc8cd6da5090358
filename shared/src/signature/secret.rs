//! Symmetric webhook keys, signature version `v1`: HMAC-SHA256.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::Rng as _;
use sha2::Sha256;

use super::{InvalidKey, VerifyingKey};

/// Prefix of the text of a secret.
pub(super) const PREFIX: &str = "whsec_";

/// Permitted length of a secret, in bytes (Standard Webhooks, "Signing secret serialization").
const SECRET_LEN: std::ops::RangeInclusive<usize> = 24..=64;

/// A secret shared by sender and receiver: 24 to 64 bytes.
#[derive(Clone)]
pub struct WebhookSecret(Vec<u8>);

impl WebhookSecret {
    /// Generates a secret of 32 random bytes.
    #[must_use]
    pub fn generate() -> Self {
        let mut key = vec![0; 32];
        rand::rng().fill_bytes(&mut key);
        Self(key)
    }

    /// Parses `whsec_` and standard base64.
    ///
    /// # Errors
    /// [`InvalidKey`], which never repeats the text.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let encoded = text
            .strip_prefix(PREFIX)
            .ok_or(InvalidKey::Prefix("`whsec_`"))?;
        let key = BASE64.decode(encoded).map_err(|_| InvalidKey::Base64)?;
        if SECRET_LEN.contains(&key.len()) {
            Ok(Self(key))
        } else {
            Err(InvalidKey::Length("24 to 64"))
        }
    }

    /// The text of the secret, `whsec_…`, for the response that shows it and for the vault.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}", BASE64.encode(&self.0))
    }

    /// The signature of one attempt: `v1,<base64>` (§ "Signature scheme").
    ///
    /// `timestamp` is the time of this attempt in Unix seconds; `body` the exact bytes sent. `id` must not
    /// contain `.`, which delimits it in the signed text.
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

    /// For test vector B, whose secret of 18 bytes `parse` rejects.
    #[cfg(test)]
    pub(super) const fn of_any_length(key: Vec<u8>) -> Self {
        Self(key)
    }
}

impl VerifyingKey for WebhookSecret {
    const VERSION: &'static str = "v1,";

    fn matches_any(
        &self,
        mut signatures: impl Iterator<Item = Vec<u8>>,
        id: &str,
        timestamp: i64,
        body: &[u8],
    ) -> bool {
        let mac = self.mac(id, timestamp, body);
        // `verify_slice` compares in constant time.
        signatures.any(|signature| mac.clone().verify_slice(&signature).is_ok())
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(redacted)")
    }
}

/// HMAC-SHA256 with a key of at most 64 bytes, the longest in this crate.
///
/// Such a key is padded with zeros to a block (RFC 2104 §2). Passing a whole block is infallible.
pub(crate) fn hmac_sha256(key: &[u8]) -> Hmac<Sha256> {
    let mut block = [0; 64];
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    Hmac::new(&block.into())
}
