//! Client certificates for receivers that require mutual TLS.
//!
//! Parses certificates and a private key from PEM. Errors never contain the key, and whether the
//! receiver trusts the certificate is not checked.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use sha2::{Digest as _, Sha256};

/// Why a certificate and key cannot be used. Messages never repeat the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// The certificates' text contains none.
    #[error("the certificate is missing: no `BEGIN CERTIFICATE` block found")]
    NoCertificate,
    /// A block of the certificates' text is damaged, or the first is not an X.509 certificate.
    #[error("the certificate cannot be parsed")]
    Certificate,
    /// The key's text contains no readable key.
    #[error("the private key is missing: no readable `BEGIN PRIVATE KEY` block found")]
    NoKey,
    /// The key is encrypted with a pass phrase.
    #[error("the private key is encrypted: provide it without a pass phrase")]
    EncryptedKey,
    /// *ring* does not support the key's type.
    #[error(
        "the private key must be RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, or Ed25519"
    )]
    UnsupportedKey,
    /// The key belongs to another certificate.
    #[error("the private key does not match the first certificate")]
    Mismatch,
}

/// A certificate with its chain, and its private key. Cheap to clone.
#[derive(Clone)]
pub struct ClientIdentity {
    pub(super) certified_key: Arc<CertifiedKey>,
    /// Hash of certificates and key, so that only equal identities share connections.
    pub(super) fingerprint: [u8; 32],
}

impl ClientIdentity {
    /// Parses the client's certificate, followed by its chain if any, and its private key in PKCS#8,
    /// PKCS#1 or SEC1 format.
    ///
    /// # Errors
    /// [`InvalidIdentity`].
    pub fn parse(certificates_pem: &str, private_key_pem: &str) -> Result<Self, InvalidIdentity> {
        let chain = CertificateDer::pem_slice_iter(certificates_pem.as_bytes())
            .collect::<Result<Vec<_>, pem::Error>>()
            .map_err(|_| InvalidIdentity::Certificate)?;
        if chain.is_empty() {
            return Err(InvalidIdentity::NoCertificate);
        }
        // Both PEM forms of an encrypted key contain this word.
        if private_key_pem.contains("ENCRYPTED") {
            return Err(InvalidIdentity::EncryptedKey);
        }
        let key = PrivateKeyDer::from_pem_slice(private_key_pem.as_bytes())
            .map_err(|_| InvalidIdentity::NoKey)?;
        let fingerprint = fingerprint(&chain, &key);
        let key =
            ring::sign::any_supported_type(&key).map_err(|_| InvalidIdentity::UnsupportedKey)?;
        let certified_key = CertifiedKey::new(chain, key);
        certified_key.keys_match().map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => InvalidIdentity::Mismatch,
            _ => InvalidIdentity::Certificate,
        })?;
        Ok(Self {
            certified_key: Arc::new(certified_key),
            fingerprint,
        })
    }
}

/// Each part is hashed with its length, so that no two identities collide by concatenation.
fn fingerprint(chain: &[CertificateDer<'_>], key: &PrivateKeyDer<'_>) -> [u8; 32] {
    let parts = chain.iter().map(AsRef::as_ref).chain([key.secret_der()]);
    parts
        .fold(Sha256::new(), |hash, part: &[u8]| {
            hash.chain_update(part.len().to_be_bytes())
                .chain_update(part)
        })
        .finalize()
        .into()
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientIdentity(redacted)")
    }
}
