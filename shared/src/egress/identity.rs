//! Room: who Harkara says it is to a receiver that asks for a certificate (mutual TLS).
//! Takes: certificates and a private key, as PEM.
//! Gives: an identity that the client can show, or what is wrong with it.
//! Never: prints or repeats a key, judges whether the receiver will trust the certificate.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use sha2::{Digest as _, Sha256};

/// What cannot be shown to a receiver. Messages never repeat what was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// The certificates' text holds none.
    #[error("the certificate is missing: there is no `BEGIN CERTIFICATE` block")]
    NoCertificate,
    /// A block of the certificates' text is damaged, or the first is no X.509 certificate.
    #[error("the certificate cannot be read")]
    Certificate,
    /// The key's text holds none that can be read.
    #[error("the private key is missing: there is no readable `BEGIN PRIVATE KEY` block")]
    NoKey,
    /// The key is encrypted with a pass phrase.
    #[error("the private key is encrypted: give it without a pass phrase")]
    EncryptedKey,
    /// A key that *ring* cannot sign with.
    #[error(
        "the private key must be RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, or Ed25519"
    )]
    UnsupportedKey,
    /// The key belongs to another certificate.
    #[error("the private key is not that of the first certificate")]
    Mismatch,
}

/// A certificate with its chain, and its private key. Cheap to clone.
#[derive(Clone)]
pub struct ClientIdentity {
    pub(super) shown: Arc<CertifiedKey>,
    /// Of all that makes it, so that equal identities share connections and others never do.
    pub(super) fingerprint: [u8; 32],
}

impl ClientIdentity {
    /// Reads the client's certificate, followed by its chain if there is one, and its private key in
    /// PKCS#8, PKCS#1 or SEC1 form.
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
        // Both ways of writing an encrypted key say so in plain words.
        if private_key_pem.contains("ENCRYPTED") {
            return Err(InvalidIdentity::EncryptedKey);
        }
        let key = PrivateKeyDer::from_pem_slice(private_key_pem.as_bytes())
            .map_err(|_| InvalidIdentity::NoKey)?;
        let fingerprint = fingerprint(&chain, &key);
        let key =
            ring::sign::any_supported_type(&key).map_err(|_| InvalidIdentity::UnsupportedKey)?;
        let shown = CertifiedKey::new(chain, key);
        shown.keys_match().map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => InvalidIdentity::Mismatch,
            _ => InvalidIdentity::Certificate,
        })?;
        Ok(Self {
            shown: Arc::new(shown),
            fingerprint,
        })
    }
}

/// Each part goes in with its length, so that no two identities look alike.
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
