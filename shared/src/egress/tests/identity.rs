//! Mutual TLS against a server that lets nobody in without a certificate.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::super::{ClientIdentity, InvalidIdentity};
use super::*;

/// One that signs the server's certificate and those of its clients.
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

    /// A certificate and its key as their owner keeps them.
    fn papers(&self, name: &str) -> Papers {
        let (certificate, key) = self.issue(name);
        Papers {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            shown: certificate.into(),
        }
    }
}

struct Papers {
    certificate: String,
    key: String,
    shown: CertificateDer<'static>,
}

impl Papers {
    fn read(&self) -> ClientIdentity {
        ClientIdentity::parse(&self.certificate, &self.key).unwrap()
    }
}

/// A server that tells of each request by whose certificate it came, and of each connection that was
/// not let in.
struct Doorman {
    url: String,
    connections: Arc<AtomicUsize>,
    guests: mpsc::UnboundedReceiver<Option<CertificateDer<'static>>>,
    task: JoinHandle<()>,
}

impl Drop for Doorman {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Doorman {
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
        let (tell, guests) = mpsc::unbounded_channel();
        let connections = Arc::<AtomicUsize>::default();
        let count = connections.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, SeqCst);
                tokio::spawn(Self::receive(acceptor.clone(), stream, tell.clone()));
            }
        });
        Self {
            url,
            connections,
            guests,
            task,
        }
    }

    async fn receive(
        acceptor: TlsAcceptor,
        stream: tokio::net::TcpStream,
        tell: mpsc::UnboundedSender<Option<CertificateDer<'static>>>,
    ) {
        let mut stream = match acceptor.accept(stream).into_fallible().await {
            Ok(stream) => stream,
            Err((_, mut stream)) => {
                tell.send(None).unwrap();
                // Hears the client out: closing on its words would reset the connection, and the
                // alert might be lost.
                stream.shutdown().await.unwrap();
                while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
                return;
            }
        };
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().unwrap()[0].clone().into_owned();
        // Each request comes in one record.
        while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {
            tell.send(Some(shown.clone())).unwrap();
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
async fn a_receiver_that_demands_a_certificate_is_shown_the_one_given_and_each_its_own() {
    let authority = Authority::new();
    let mut door = Doorman::start(&authority, "http/1.1").await;
    let egress = trusting(&authority);
    let all = ["alice.example", "bob.example"].map(|name| authority.papers(name));
    // In turns: a connection that one opened must not serve the other.
    for _ in 0..2 {
        for papers in &all {
            let identity = papers.read();
            let answer = egress
                .send(get_as(&door.url, Some(&identity)))
                .await
                .unwrap();
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(
                door.guests.recv().await.unwrap().as_ref(),
                Some(&papers.shown)
            );
        }
    }
    // And one that is read anew goes on with the connection it has.
    assert_eq!(door.connections.load(SeqCst), 2);
}

#[tokio::test]
async fn without_the_certificate_tls_fails_and_may_be_tried_again() {
    let authority = Authority::new();
    let egress = trusting(&authority);
    let stranger = Authority::new().papers("alice.example").read();
    for protocol in ["http/1.1", "h2"] {
        let mut door = Doorman::start(&authority, protocol).await;
        for identity in [None, Some(&stranger)] {
            let error = egress.send(get_as(&door.url, identity)).await.unwrap_err();
            assert_eq!(error.code(), "egress_tls", "{protocol}: {error}");
            assert!(!error.is_terminal());
            assert_eq!(door.guests.recv().await.unwrap(), None);
        }
    }
}

#[tokio::test]
async fn an_identity_opens_no_other_addresses_and_trusts_no_other_servers() {
    let authority = Authority::new();
    let door = Doorman::start(&authority, "http/1.1").await;
    let alice = authority.papers("alice.example").read();
    let refused = closed().send(get_as(&door.url, Some(&alice))).await;
    assert_eq!(refusal(refused), Some(Refusal::NotAllowed));
    let refused = closed()
        .send(get_as("https://localhost/", Some(&alice)))
        .await;
    assert_eq!(refusal(refused), Some(Refusal::Address));
    assert_eq!(door.connections.load(SeqCst), 0);

    let elsewhere = trusting(&Authority::new());
    let error = elsewhere
        .send(get_as(&door.url, Some(&alice)))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "egress_tls", "{error}");
}

#[test]
fn what_is_wrong_with_an_identity_is_told_without_repeating_it() {
    let authority = Authority::new();
    let Papers {
        certificate, key, ..
    } = authority.papers("alice.example");
    let other = authority.papers("alice.example").key;
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
