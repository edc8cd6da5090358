//! Room: TLS of outbound HTTP.
//! Takes: the machine's certificates, and an identity to show.
//! Gives: one configuration for every HTTP client of the platform: rustls, *ring*, HTTP/2 or 1.1.
//! Never: accepts a certificate unchecked.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};

use super::identity::ClientIdentity;

/// The TLS configuration for an HTTP client, to be given to `reqwest` as its preconfigured backend.
///
/// Trusts the machine's certificates (or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name); a
/// machine without any, such as a bare container, gets Mozilla's, which are compiled in. Also makes
/// *ring* the process's default, for libraries that ask for one.
///
/// # Errors
/// When *ring* offers no version of TLS, which it does.
pub fn client_config() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    trusting(roots)
}

/// The same, with other roots than the machine's.
fn trusting(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    if CryptoProvider::get_default().is_none() {
        // Losing a race to another thread is fine: it installs the same one.
        drop(ring::default_provider().install_default());
    }
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The same, trusting what one authority signs, given as PEM.
#[cfg(any(test, feature = "testing"))]
pub(super) fn config_trusting(authority: &str) -> Result<ClientConfig, rustls::Error> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let authority = CertificateDer::from_pem_slice(authority.as_bytes())
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    roots.add(authority)?;
    trusting(roots)
}

/// A configuration that shows an identity to whoever asks for one, and resumes nobody else's session.
pub(super) fn showing(config: &ClientConfig, identity: &ClientIdentity) -> ClientConfig {
    let mut config = config.clone();
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(identity.shown.clone()));
    config.resumption = Resumption::default();
    config
}
