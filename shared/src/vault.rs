//! Room: secrets at rest.
//! Takes: the master keys, a secret, and the place where it is stored.
//! Gives: the secret sealed with XChaCha20-Poly1305 under the current key; the secret back, whichever
//! of the keys sealed it; keys derived for other uses.
//! Never: stores anything, knows what a secret is for, or shows a key or a secret in an error.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{Key, KeyInit as _, XChaCha20Poly1305, XNonce};
use hmac::Mac as _;
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

use crate::signature::hmac_sha256;

/// The first byte of what is sealed: version byte, key id, nonce, ciphertext with its tag.
const VERSION: u8 = 1;

/// How many bytes of a key's SHA-256 name it.
const KEY_ID_BYTES: usize = 4;

/// How many bytes of nonce XChaCha20 takes: enough for a random one to be unique.
const NONCE_BYTES: usize = 24;

/// A list of master keys that cannot be used. Positions count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMasterKeys {
    /// This one is not base64 with its padding; an empty one lands at `Length`.
    #[error("master key {0} is not standard base64")]
    Base64(usize),
    /// This one does not have 32 bytes.
    #[error("master key {0} does not have 32 bytes")]
    Length(usize),
}

/// Why a secret could not be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The secret is longer than the cipher takes, which is 256 GiB.
    #[error("the secret is too long to be sealed")]
    TooLong,
    /// The stored bytes are too short, or of a version this release does not know.
    #[error("the sealed secret is malformed")]
    Malformed,
    /// None of the master keys sealed it; perhaps one was dropped from the list too early.
    #[error("the secret was sealed with a master key that is not in the list")]
    UnknownKey,
    /// The bytes were changed, or moved here from another place.
    #[error("the sealed secret is damaged or belongs elsewhere")]
    Damaged,
}

/// The master keys: the first seals, all of them open.
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
    /// Reads one or more keys of 32 bytes in standard base64, separated by commas, the current one
    /// first; spaces around them do not matter.
    ///
    /// # Errors
    /// [`InvalidMasterKeys`] with the position of the first bad one.
    pub fn parse(text: &str) -> Result<Self, InvalidMasterKeys> {
        // Splitting gives at least one part, so that only a bad key is an error.
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

    /// The text of one fresh random key, as [`MasterKeys::parse`] reads it.
    #[must_use]
    pub fn generate() -> String {
        BASE64.encode(rand::rng().random::<[u8; 32]>())
    }

    /// Seals a secret with the current key.
    ///
    /// `context` names the table and the row, as in `app.endpoint_secrets/ep_…`: it is not stored,
    /// and only who gives the same can open, so that sealed bytes copied to another row are useless.
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
            &[VERSION],
            self.current.id.as_slice(),
            nonce.as_slice(),
            &ciphertext,
        ]
        .concat())
    }

    /// Opens what [`MasterKeys::seal`] sealed with any of the keys, for the same context.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn open(&self, sealed: &[u8], context: &str) -> Result<Vec<u8>, VaultError> {
        let (id, rest) = split_header(sealed).ok_or(VaultError::Malformed)?;
        let (nonce, ciphertext) = rest
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(VaultError::Malformed)?;
        let mut failure = VaultError::UnknownKey;
        // Two keys may share an id, so the search goes on after a failure.
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

    /// Whether the current key sealed this, so that a rotation may leave it as it is.
    #[must_use]
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        split_header(sealed).is_some_and(|(id, _)| *id == self.current.id)
    }

    /// A key for another use, named by `label`, from each master key: HMAC-SHA256(key, label), that
    /// of the current one first.
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

/// The key id, and what follows it.
fn split_header(sealed: &[u8]) -> Option<(&[u8; KEY_ID_BYTES], &[u8])> {
    sealed.strip_prefix(&[VERSION])?.split_first_chunk()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACE: &str = "app.endpoint_secrets/ep_01h455vb4pex5vsknk084sn02q";

    fn keys(texts: &[&str]) -> MasterKeys {
        MasterKeys::parse(&texts.join(",")).unwrap()
    }

    #[test]
    fn a_list_is_read_and_a_bad_key_is_named_by_its_position() {
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
    fn the_layout_is_version_key_id_nonce_and_ciphertext() {
        let text = MasterKeys::generate();
        let sealed = keys(&[&text]).seal(b"secret", PLACE).unwrap();
        let hash = Sha256::digest(BASE64.decode(&text).unwrap());
        assert_eq!(sealed.len(), 1 + 4 + 24 + 6 + 16);
        assert_eq!(sealed.first(), Some(&1));
        assert_eq!(sealed.get(1..5), hash.get(..4));
        let again = keys(&[&text]).seal(b"secret", PLACE).unwrap();
        assert_ne!(sealed, again, "every seal has its own nonce");
    }

    #[test]
    fn sealed_bytes_open_only_where_they_belong() {
        let keys = keys(&[&MasterKeys::generate()]);
        let sealed = keys.seal(b"secret", PLACE).unwrap();
        assert_eq!(keys.open(&sealed, PLACE).unwrap(), b"secret");
        assert_eq!(
            keys.open(&sealed, "app.trunks/trk_1"),
            Err(VaultError::Damaged)
        );
        assert_eq!(keys.open(&sealed, ""), Err(VaultError::Damaged));
    }

    #[test]
    fn rotation_opens_the_old_and_seals_with_the_new() {
        let (old, new) = (MasterKeys::generate(), MasterKeys::generate());
        let sealed = keys(&[&old]).seal(b"secret", PLACE).unwrap();

        let both = keys(&[&new, &old]);
        assert_eq!(both.open(&sealed, PLACE).unwrap(), b"secret");
        assert!(!both.is_current(&sealed));

        let resealed = both.seal(b"secret", PLACE).unwrap();
        assert!(both.is_current(&resealed));
        assert_eq!(keys(&[&new]).open(&resealed, PLACE).unwrap(), b"secret");
        assert_eq!(
            keys(&[&old]).open(&resealed, PLACE),
            Err(VaultError::UnknownKey)
        );
    }

    #[test]
    fn derived_keys_depend_on_the_key_and_the_label_and_follow_its_order() {
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
        fn what_is_sealed_opens(secret: Vec<u8>, context in "\\PC{0,60}") {
            let keys = keys(&[&MasterKeys::generate()]);
            let sealed = keys.seal(&secret, &context).unwrap();
            prop_assert_eq!(keys.open(&sealed, &context), Ok(secret));
        }

        #[test]
        fn a_changed_byte_or_a_cut_is_noticed(at in 0..51_usize, bit in 0..8_u32) {
            let keys = keys(&[&MasterKeys::generate()]);
            let mut sealed = keys.seal(b"secret", PLACE).unwrap();
            prop_assert!(keys.open(sealed.get(..at).unwrap(), PLACE).is_err());
            *sealed.get_mut(at).unwrap() ^= 1 << bit;
            prop_assert!(keys.open(&sealed, PLACE).is_err());
        }

        #[test]
        fn no_bytes_break_the_reader(bytes: Vec<u8>) {
            let keys = keys(&[&MasterKeys::generate()]);
            prop_assert!(keys.open(&bytes, PLACE).is_err());
            let _ = keys.is_current(&bytes);
        }
    }
}
