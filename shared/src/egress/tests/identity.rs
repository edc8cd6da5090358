//! Tests of mutual TLS against a server that requires a client certificate.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::super::{ClientIdentity, InvalidIdentity};
use super::*;

/// A certificate authority for the server and its clients.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// A client certificate and its key in PEM.
    fn credentials(&self, name: &str) -> Credentials {
        let (certificate, key) = self.issue(name);
        Credentials {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.into(),
        }
    }
}

struct Credentials {
    certificate: String,
    key: String,
    der: CertificateDer<'static>,
}

impl Credentials {
    fn read(&self) -> ClientIdentity {
        ClientIdentity::parse(&self.certificate, &self.key).unwrap()
    }
}

/// A server that reports the client certificate of each request, and `None` for each rejected
/// connection.
struct MtlsServer {
    url: String,
    connections: Arc<AtomicUsize>,
    clients: mpsc::UnboundedReceiver<Option<CertificateDer<'static>>>,
    task: JoinHandle<()>,
}

impl Drop for MtlsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl MtlsServer {
    async fn start(authority: &Authority, protocol: &str) -> Self {
        drop(client_config().unwrap()); // names the process's cryptography
        let mut roots = RootCertStore::empty();
        roots.add(authority.0.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder(roots.into()).build().unwrap();
        let (certificate, key) = authority.issue("localhost");
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.into()], key)
            .unwrap();
        config.alpn_protocols = vec![protocol.into()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "https://localhost:{}/",
            listener.local_addr().unwrap().port()
        );
        let (report, clients) = mpsc::unbounded_channel();
        let connections = Arc::<AtomicUsize>::default();
        let count = connections.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, SeqCst);
                tokio::spawn(Self::receive(acceptor.clone(), stream, report.clone()));
            }
        });
        Self {
            url,
            connections,
            clients,
            task,
        }
    }

    async fn receive(
        acceptor: TlsAcceptor,
        stream: tokio::net::TcpStream,
        report: mpsc::UnboundedSender<Option<CertificateDer<'static>>>,
    ) {
        let mut stream = match acceptor.accept(stream).into_fallible().await {
            Ok(stream) => stream,
            Err((_, mut stream)) => {
                report.send(None).unwrap();
                // Reads to the end: closing with unread data would reset the connection, and the
                // alert could be lost.
                stream.shutdown().await.unwrap();
                while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
                return;
            }
        };
        let (_, session) = stream.get_ref();
        let presented = session.peer_certificates().unwrap()[0].clone().into_owned();
        // Each request arrives in one record.
        while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {
            report.send(Some(presented.clone())).unwrap();
            stream.write_all(OK).await.unwrap();
            stream.flush().await.unwrap();
        }
    }
}

fn trusting(authority: &Authority) -> Egress {
    let loopback = ["127.0.0.0/8", "::1/128"].map(|net| net.parse().unwrap());
    Egress::trusting(loopback.to_vec(), &authority.0.pem()).unwrap()
}

fn get_as<'a>(url: &'a str, identity: Option<&'a ClientIdentity>) -> EgressRequest<'a> {
    EgressRequest {
        identity,
        ..get(url)
    }
}

#[tokio::test]
async fn each_identity_presents_its_own_certificate_and_connection() {
    let authority = Authority::new();
    let mut server = MtlsServer::start(&authority, "http/1.1").await;
    let egress = trusting(&authority);
    let all = ["alice.example", "bob.example"].map(|name| authority.credentials(name));
    // Alternating: a connection of one identity must not serve the other.
    for _ in 0..2 {
        for credentials in &all {
            let identity = credentials.read();
            let answer = egress
                .send(get_as(&server.url, Some(&identity)))
                .await
                .unwrap();
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(
                server.clients.recv().await.unwrap().as_ref(),
                Some(&credentials.der)
            );
        }
    }
    // An identity that is parsed again reuses its connection.
    assert_eq!(server.connections.load(SeqCst), 2);
}

#[tokio::test]
async fn missing_certificate_is_a_retryable_tls_failure() {
    let authority = Authority::new();
    let egress = trusting(&authority);
    let stranger = Authority::new().credentials("alice.example").read();
    for protocol in ["http/1.1", "h2"] {
        let mut server = MtlsServer::start(&authority, protocol).await;
        for identity in [None, Some(&stranger)] {
            let error = egress
                .send(get_as(&server.url, identity))
                .await
                .unwrap_err();
            assert_eq!(error.code(), "egress_tls", "{protocol}: {error}");
            assert!(!error.is_terminal());
            assert_eq!(server.clients.recv().await.unwrap(), None);
        }
    }
}

#[tokio::test]
async fn identity_does_not_widen_addresses_or_trust() {
    let authority = Authority::new();
    let server = MtlsServer::start(&authority, "http/1.1").await;
    let alice = authority.credentials("alice.example").read();
    let refused = closed().send(get_as(&server.url, Some(&alice))).await;
    assert_eq!(refusal(refused), Some(Refusal::NotAllowed));
    let refused = closed()
        .send(get_as("https://localhost/", Some(&alice)))
        .await;
    assert_eq!(refusal(refused), Some(Refusal::Address));
    assert_eq!(server.connections.load(SeqCst), 0);

    let elsewhere = trusting(&Authority::new());
    let error = elsewhere
        .send(get_as(&server.url, Some(&alice)))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "egress_tls", "{error}");
}

#[test]
fn invalid_identity_is_reported_without_its_content() {
    let authority = Authority::new();
    let Credentials {
        certificate, key, ..
    } = authority.credentials("alice.example");
    let other = authority.credentials("alice.example").key;
    let block = |label: &str, base64: &str| {
        format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
    };
    let chain = format!("{certificate}{}", authority.0.pem());
    let whole = ClientIdentity::parse(&chain, &key).unwrap();
    assert_eq!(format!("{whole:?}"), "ClientIdentity(redacted)");

    for (certificates, key, wrong) in [
        ("", &*key, InvalidIdentity::NoCertificate),
        (&*key, &*key, InvalidIdentity::NoCertificate),
        (
            &*block("CERTIFICATE", "!!"),
            &*key,
            InvalidIdentity::Certificate,
        ),
        (
            &*block("CERTIFICATE", "AAAA"),
            &*key,
            InvalidIdentity::Certificate,
        ),
        (&*certificate, "", InvalidIdentity::NoKey),
        (&*certificate, &*certificate, InvalidIdentity::NoKey),
        (
            &*certificate,
            &*block("PRIVATE KEY", "!!"),
            InvalidIdentity::NoKey,
        ),
        (
            &*certificate,
            &*block("ENCRYPTED PRIVATE KEY", "AAAA"),
            InvalidIdentity::EncryptedKey,
        ),
        (
            &*certificate,
            &*block("PRIVATE KEY", "AAAA"),
            InvalidIdentity::UnsupportedKey,
        ),
        (&*certificate, &*other, InvalidIdentity::Mismatch),
    ] {
        assert_eq!(ClientIdentity::parse(certificates, key).err(), Some(wrong));
    }
}
