//! Encryption of stored secrets.
//!
//! Seals a secret with XChaCha20-Poly1305 under the current master key, bound to the row that stores
//! it, and opens it with any configured key. Also derives keys for other uses. Errors and `Debug` output
//! never contain a key or a secret.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{Key, KeyInit as _, XChaCha20Poly1305, XNonce};
use hmac::Mac as _;
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

use crate::signature::hmac_sha256;

/// Version of the sealed format: version byte, key id, nonce, ciphertext with its tag.
const FORMAT_VERSION: u8 = 1;

/// Length of a key id: the first bytes of the key's SHA-256.
const KEY_ID_BYTES: usize = 4;

/// Length of XChaCha20's nonce; long enough that random nonces do not repeat.
const NONCE_BYTES: usize = 24;

/// An invalid list of master keys. Positions count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMasterKeys {
    /// The key is not padded base64. An empty key is reported as `Length`.
    #[error("master key {0} is not standard base64")]
    Base64(usize),
    /// The key does not have 32 bytes.
    #[error("master key {0} does not have 32 bytes")]
    Length(usize),
}

/// Why a secret could not be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The secret exceeds the cipher's limit of 256 GiB.
    #[error("the secret is too long to be sealed")]
    TooLong,
    /// The stored bytes are too short, or of an unknown format version.
    #[error("the sealed secret is malformed")]
    Malformed,
    /// None of the configured master keys sealed it; a key may have been removed too early.
    #[error("the secret was sealed with a master key that is not in the list")]
    UnknownKey,
    /// The bytes were changed, or copied from another row.
    #[error("the sealed secret is damaged or belongs to another row")]
    Damaged,
}

/// The master keys: the first one seals, all of them open.
#[derive(Clone)]
pub struct MasterKeys {
    current: MasterKey,
    older: Vec<MasterKey>,
}

#[derive(Clone)]
struct MasterKey {
    id: [u8; KEY_ID_BYTES],
    bytes: [u8; 32],
}

impl MasterKeys {
    /// Parses one or more keys of 32 bytes in standard base64, separated by commas, the current key
    /// first. Whitespace around keys is ignored.
    ///
    /// # Errors
    /// [`InvalidMasterKeys`] with the position of the first invalid key.
    pub fn parse(text: &str) -> Result<Self, InvalidMasterKeys> {
        let (first, rest) = text
            .split_once(',')
            .map_or((text, None), |(a, b)| (a, Some(b)));
        let current = MasterKey::parse(1, first)?;
        let older = rest.into_iter().flat_map(|rest| rest.split(',')).zip(2..);
        let older = older.map(|(key, position)| MasterKey::parse(position, key));
        Ok(Self {
            current,
            older: older.collect::<Result<_, _>>()?,
        })
    }

    /// Generates the text of one random key, for [`MasterKeys::parse`].
    #[must_use]
    pub fn generate() -> String {
        BASE64.encode(rand::rng().random::<[u8; 32]>())
    }

    /// Seals a secret with the current key.
    ///
    /// `context` names the table and the row, as in `app.endpoint_secrets/ep_…`. It is authenticated but
    /// not stored: opening requires the same context, so sealed bytes copied to another row are useless.
    ///
    /// # Errors
    /// [`VaultError::TooLong`].
    pub fn seal(&self, plaintext: &[u8], context: &str) -> Result<Vec<u8>, VaultError> {
        let nonce = rand::rng().random::<[u8; NONCE_BYTES]>();
        let payload = Payload {
            msg: plaintext,
            aad: context.as_bytes(),
        };
        let ciphertext = self
            .current
            .cipher()
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| VaultError::TooLong)?;
        Ok([
            &[FORMAT_VERSION],
            self.current.id.as_slice(),
            nonce.as_slice(),
            &ciphertext,
        ]
        .concat())
    }

    /// Opens a secret that [`MasterKeys::seal`] sealed with any of the keys for the same context.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn open(&self, sealed: &[u8], context: &str) -> Result<Vec<u8>, VaultError> {
        let (id, rest) = split_header(sealed).ok_or(VaultError::Malformed)?;
        let (nonce, ciphertext) = rest
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(VaultError::Malformed)?;
        let mut failure = VaultError::UnknownKey;
        // Two keys can share an id, so a failure does not end the search.
        for key in self.all().filter(|key| key.id == *id) {
            let payload = Payload {
                msg: ciphertext,
                aad: context.as_bytes(),
            };
            match key.cipher().decrypt(&XNonce::from(*nonce), payload) {
                Ok(plaintext) => return Ok(plaintext),
                Err(_) => failure = VaultError::Damaged,
            }
        }
        Err(failure)
    }

    /// Whether the current key sealed this, so that a rotation can skip it.
    #[must_use]
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        split_header(sealed).is_some_and(|(id, _)| *id == self.current.id)
    }

    /// Derives a key for the use named by `label` from the current master key: HMAC-SHA256(key, label).
    #[must_use]
    pub fn derive_current(&self, label: &str) -> [u8; 32] {
        self.current.derive(label)
    }

    /// As [`MasterKeys::derive_current`] for each master key, the current one first.
    #[must_use]
    pub fn derive_all(&self, label: &str) -> Vec<[u8; 32]> {
        self.all().map(|key| key.derive(label)).collect()
    }

    fn all(&self) -> impl Iterator<Item = &MasterKey> {
        std::iter::once(&self.current).chain(&self.older)
    }
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKeys({} redacted)", self.all().count())
    }
}

impl MasterKey {
    fn parse(position: usize, text: &str) -> Result<Self, InvalidMasterKeys> {
        let bytes = BASE64
            .decode(text.trim())
            .map_err(|_| InvalidMasterKeys::Base64(position))?;
        let bytes: [u8; 32] = bytes
            .try_into()
            .map_err(|_| InvalidMasterKeys::Length(position))?;
        let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(bytes));
        Ok(Self {
            id: [a, b, c, d],
            bytes,
        })
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&Key::from(self.bytes))
    }

    fn derive(&self, label: &str) -> [u8; 32] {
        hmac_sha256(&self.bytes)
            .chain_update(label)
            .finalize()
            .into_bytes()
            .into()
    }
}

/// The key id and the bytes after it.
fn split_header(sealed: &[u8]) -> Option<(&[u8; KEY_ID_BYTES], &[u8])> {
    sealed.strip_prefix(&[FORMAT_VERSION])?.split_first_chunk()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONTEXT: &str = "app.endpoint_secrets/ep_01h455vb4pex5vsknk084sn02q";

    fn keys(texts: &[&str]) -> MasterKeys {
        MasterKeys::parse(&texts.join(",")).unwrap()
    }

    #[test]
    fn invalid_key_is_reported_by_position() {
        let (a, b) = (MasterKeys::generate(), MasterKeys::generate());
        assert_ne!(a, b);
        assert_eq!(
            MasterKeys::parse(&format!(" {a} , {b} "))
                .unwrap()
                .all()
                .count(),
            2
        );
        let refused = |text: &str| MasterKeys::parse(text).err();
        assert_eq!(refused(""), Some(InvalidMasterKeys::Length(1)));
        assert_eq!(refused("%"), Some(InvalidMasterKeys::Base64(1)));
        assert_eq!(
            refused(&format!("{a},")),
            Some(InvalidMasterKeys::Length(2))
        );
        assert_eq!(
            refused(&format!("{a},{b},AAAA")),
            Some(InvalidMasterKeys::Length(3))
        );
    }

    #[test]
    fn debug_shows_no_key() {
        let text = MasterKeys::generate();
        let shown = format!("{:?}", keys(&[&text]));
        assert_eq!(shown, "MasterKeys(1 redacted)");
    }

    #[test]
    fn sealed_format_is_version_key_id_nonce_ciphertext() {
        let text = MasterKeys::generate();
        let sealed = keys(&[&text]).seal(b"secret", CONTEXT).unwrap();
        let hash = Sha256::digest(BASE64.decode(&text).unwrap());
        assert_eq!(sealed.len(), 1 + 4 + 24 + 6 + 16);
        assert_eq!(sealed.first(), Some(&1));
        assert_eq!(sealed.get(1..5), hash.get(..4));
        let again = keys(&[&text]).seal(b"secret", CONTEXT).unwrap();
        assert_ne!(sealed, again, "each seal uses its own nonce");
    }

    #[test]
    fn sealed_bytes_open_only_in_their_context() {
        let keys = keys(&[&MasterKeys::generate()]);
        let sealed = keys.seal(b"secret", CONTEXT).unwrap();
        assert_eq!(keys.open(&sealed, CONTEXT).unwrap(), b"secret");
        assert_eq!(
            keys.open(&sealed, "app.trunks/trk_1"),
            Err(VaultError::Damaged)
        );
        assert_eq!(keys.open(&sealed, ""), Err(VaultError::Damaged));
    }

    #[test]
    fn rotation_opens_with_old_keys_and_seals_with_the_new_one() {
        let (old, new) = (MasterKeys::generate(), MasterKeys::generate());
        let sealed = keys(&[&old]).seal(b"secret", CONTEXT).unwrap();

        let both = keys(&[&new, &old]);
        assert_eq!(both.open(&sealed, CONTEXT).unwrap(), b"secret");
        assert!(!both.is_current(&sealed));

        let resealed = both.seal(b"secret", CONTEXT).unwrap();
        assert!(both.is_current(&resealed));
        assert_eq!(keys(&[&new]).open(&resealed, CONTEXT).unwrap(), b"secret");
        assert_eq!(
            keys(&[&old]).open(&resealed, CONTEXT),
            Err(VaultError::UnknownKey)
        );
    }

    #[test]
    fn derived_keys_depend_on_key_and_label_in_order() {
        let (old, new) = (MasterKeys::generate(), MasterKeys::generate());
        let derived = keys(&[&new, &old]).derive_all("api-key");
        assert_eq!(derived.len(), 2);
        assert_eq!(derived.first(), keys(&[&new]).derive_all("api-key").first());
        assert_eq!(derived.last(), keys(&[&old]).derive_all("api-key").first());
        assert_ne!(derived, keys(&[&new, &old]).derive_all("session"));
    }

    #[test]
    fn derivation_is_hmac_sha256() {
        // RFC 4231 has no case with a key of 32 bytes; this one was computed with OpenSSL.
        let keys = keys(&[&BASE64.encode([0x0b; 32])]);
        let hex: String = keys
            .derive_all("Hi There")
            .concat()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hex,
            "198a607eb44bfbc69903a0f1cf2bbdc5ba0aa3f3d9ae3c1c7a3b1696a0b68cf7"
        );
    }

    proptest! {
        #[test]
        fn sealed_secret_opens(secret: Vec<u8>, context in "\\PC{0,60}") {
            let keys = keys(&[&MasterKeys::generate()]);
            let sealed = keys.seal(&secret, &context).unwrap();
            prop_assert_eq!(keys.open(&sealed, &context), Ok(secret));
        }

        #[test]
        fn changed_or_truncated_bytes_are_rejected(at in 0..51_usize, bit in 0..8_u32) {
            let keys = keys(&[&MasterKeys::generate()]);
            let mut sealed = keys.seal(b"secret", CONTEXT).unwrap();
            prop_assert!(keys.open(sealed.get(..at).unwrap(), CONTEXT).is_err());
            *sealed.get_mut(at).unwrap() ^= 1 << bit;
            prop_assert!(keys.open(&sealed, CONTEXT).is_err());
        }

        #[test]
        fn open_accepts_any_bytes_without_panicking(bytes: Vec<u8>) {
            let keys = keys(&[&MasterKeys::generate()]);
            prop_assert!(keys.open(&bytes, CONTEXT).is_err());
            let _ = keys.is_current(&bytes);
        }
    }
}
