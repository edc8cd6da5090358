//! TLS of outbound HTTP: rustls with *ring*, HTTP/2 or 1.1.
//!
//! One configuration for every HTTP client of the platform. Certificates are always verified.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};

use super::identity::ClientIdentity;

/// The TLS configuration for an HTTP client, for `reqwest`'s `tls_backend_preconfigured`.
///
/// Trusts the system's root certificates (or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name). A
/// system without any, such as a bare container, uses Mozilla's, which are compiled in. Also installs
/// *ring* as the process's default provider, for libraries that use one.
///
/// # Errors
/// When *ring* offers no version of TLS.
pub fn client_config() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    trusting(roots)
}

/// As [`client_config`], with the given roots.
fn trusting(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    if CryptoProvider::get_default().is_none() {
        // Losing a race to another thread is harmless: it installs the same provider.
        drop(ring::default_provider().install_default());
    }
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// As [`client_config`], trusting one authority only, given as PEM.
#[cfg(any(test, feature = "testing"))]
pub(super) fn config_trusting(authority: &str) -> Result<ClientConfig, rustls::Error> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let authority = CertificateDer::from_pem_slice(authority.as_bytes())
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    roots.add(authority)?;
    trusting(roots)
}

/// A configuration that presents an identity when the server requests one, with a session cache of its own.
pub(super) fn with_identity(config: &ClientConfig, identity: &ClientIdentity) -> ClientConfig {
    let mut config = config.clone();
    config.client_auth_cert_resolver =
        Arc::new(SingleCertAndKey::from(identity.certified_key.clone()));
    config.resumption = Resumption::default();
    config
}
