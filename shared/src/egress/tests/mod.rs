//! Tests of the outbound client against real sockets on this machine.

mod identity;
mod refused;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::dns::{Name, Resolve, Resolving};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::client::REFUSED_HEADERS;
use super::error::DnsFailure;
use super::{BODY_LIMIT, Egress, EgressError, EgressRequest, Refusal, client_config};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A server that answers the first request of every connection with the same bytes, then keeps the
/// connection open.
struct Server {
    address: SocketAddr,
    url: String,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    bytes_taken: AtomicUsize,
    last_request: Mutex<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn answering(answer: impl Into<Bytes>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let task = tokio::spawn(Self::serve(listener, answer.into(), seen.clone()));
        Self {
            address,
            url: format!("http://{address}/path?query=1"),
            seen,
            task,
        }
    }

    async fn serve(listener: TcpListener, answer: Bytes, seen: Arc<Seen>) {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            seen.connections.fetch_add(1, SeqCst);
            let mut request = vec![0; 64 * 1024];
            let read = stream.read(&mut request).await.unwrap_or_default();
            request.truncate(read);
            *seen.last_request.lock().unwrap() = String::from_utf8_lossy(&request).into_owned();
            for chunk in answer.chunks(16 * 1024) {
                if stream.write_all(chunk).await.is_err() {
                    break;
                }
                seen.bytes_taken.fetch_add(chunk.len(), SeqCst);
            }
            held.push(stream);
        }
    }

    fn connections(&self) -> usize {
        self.seen.connections.load(SeqCst)
    }
}

fn open() -> Egress {
    Egress::new(vec!["127.0.0.0/8".parse().unwrap()]).unwrap()
}

fn closed() -> Egress {
    Egress::new(Vec::new()).unwrap()
}

fn get(url: &str) -> EgressRequest<'_> {
    EgressRequest {
        method: Method::GET,
        url,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        timeout: Duration::from_secs(10),
        identity: None,
    }
}

fn refusal<T>(result: Result<T, EgressError>) -> Option<Refusal> {
    match result {
        Err(EgressError::Refused(refusal)) => Some(refusal),
        _ => None,
    }
}

#[tokio::test]
async fn allowed_private_address_receives_the_request() {
    let server = Server::answering(OK).await;
    let request = EgressRequest {
        method: Method::POST,
        headers: HeaderMap::from_iter([(
            "webhook-id".parse().unwrap(),
            HeaderValue::from_static("evt_1"),
        )]),
        body: Bytes::from_static(b"{\"a\":1}"),
        ..get(&server.url)
    };
    let response = open().send(request).await.unwrap();
    assert_eq!(response.status, StatusCode::OK);
    assert_eq!(response.body, b"ok");
    assert!(!response.truncated);
    assert_eq!(response.headers[header::CONTENT_LENGTH], "2");
    assert_eq!(response.address, Some(server.address.ip()));

    let sent = server.seen.last_request.lock().unwrap().clone();
    assert!(
        sent.starts_with("POST /path?query=1 HTTP/1.1\r\n"),
        "{sent}"
    );
    assert!(sent.ends_with("\r\n\r\n{\"a\":1}"), "{sent}");
    assert!(sent.contains("webhook-id: evt_1\r\n"), "{sent}");
    assert!(sent.contains("user-agent: Harkara/"), "{sent}");
}

#[tokio::test]
async fn private_address_not_allowed_receives_no_connection() {
    let server = Server::answering(OK).await;
    let port = server.address.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "127.1",
        "0x7f000001",
        "2130706433",
        "[::1]",
    ] {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{host}:{port}/");
            let error = closed().send(get(&url)).await.unwrap_err();
            assert_eq!(error.code(), "egress_refused", "{url}: {error}");
            assert!(error.is_terminal(), "{url}");
        }
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn name_is_judged_by_its_resolved_address() {
    // On port 443, so that the port alone does not cause the refusal.
    let result = closed().send(get("https://localhost/")).await;
    assert_eq!(refusal(result), Some(Refusal::Address));
    // With another network allowed, the name is resolved and its address checked.
    let elsewhere = Egress::new(vec!["10.0.0.0/8".parse().unwrap()]).unwrap();
    let result = elsewhere.send(get("http://localhost:9/")).await;
    assert_eq!(refusal(result), Some(Refusal::NotAllowed));
    // An allowed address is reached by name.
    let server = Server::answering(OK).await;
    let url = format!("http://localhost:{}/", server.address.port());
    assert_eq!(open().send(get(&url)).await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn redirect_is_returned_and_not_followed() {
    let inner = Server::answering(OK).await;
    let redirect = format!(
        "HTTP/1.1 302 Found\r\ncontent-length: 0\r\nlocation: {}\r\n\r\n",
        inner.url
    );
    let outer = Server::answering(redirect.into_bytes()).await;
    let response = open().send(get(&outer.url)).await.unwrap();
    assert_eq!(response.status, StatusCode::FOUND);
    assert_eq!(response.headers[header::LOCATION], inner.url);
    assert_eq!(inner.connections(), 0);
}

#[tokio::test]
async fn long_body_is_truncated_at_the_limit() {
    let long = 10 * 1024 * 1024;
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {long}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + long, b'x');
    let server = Server::answering(answer).await;
    let response = open().send(get(&server.url)).await.unwrap();
    assert_eq!(response.body.len(), BODY_LIMIT);
    assert!(response.truncated);
    assert!(server.seen.bytes_taken.load(SeqCst) < long);
}

#[tokio::test]
async fn body_of_exactly_the_limit_is_not_truncated() {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY_LIMIT}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + BODY_LIMIT, b'x');
    let server = Server::answering(answer).await;
    let response = open().send(get(&server.url)).await.unwrap();
    assert_eq!(
        (response.body.len(), response.truncated),
        (BODY_LIMIT, false)
    );
}

#[tokio::test]
async fn silent_server_and_stalled_body_time_out() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
    for answer in ["", "HTTP/1.1 200 OK\r\n", half] {
        let server = Server::answering(answer).await;
        let timeout = Duration::from_millis(200);
        let started = Instant::now();
        let result = open()
            .send(EgressRequest {
                timeout,
                ..get(&server.url)
            })
            .await;
        let error = result.unwrap_err();
        assert_eq!(error.code(), "egress_timeout");
        assert_eq!(error.to_string(), "timed out after 200ms");
        assert!(!error.is_terminal());
        assert!(started.elapsed() < Duration::from_secs(2));
        assert_eq!(server.connections(), 1);
    }
}

#[tokio::test]
async fn connect_tls_and_io_failures_have_codes_and_are_retryable() {
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let babble = Server::answering(&b"this is neither TLS nor HTTP\r\n\r\n"[..]).await;
    for (url, code) in [
        (format!("http://{gone}/?token=hidden"), "egress_connect"),
        (
            format!("https://{}/?token=hidden", babble.address),
            "egress_tls",
        ),
        (
            format!("http://{}/?token=hidden", babble.address),
            "egress_io",
        ),
    ] {
        let error = open().send(get(&url)).await.unwrap_err();
        assert_eq!(error.code(), code, "{url}: {error}");
        assert!(!error.is_terminal());
        assert!(!error.to_string().contains("hidden"), "{error}");
    }
}

/// The error of a request through this resolver.
async fn failure_with(resolver: impl Resolve + 'static) -> EgressError {
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(client_config().unwrap())
        .dns_resolver(Arc::new(resolver))
        .connect_timeout(Duration::from_millis(100))
        .build()
        .unwrap();
    let result = client.get("https://example.com/?token=hidden").send().await;
    EgressError::from(result.unwrap_err())
}

#[tokio::test]
async fn dns_failure_and_dns_timeout_are_retryable() {
    struct Unknown;
    impl Resolve for Unknown {
        fn resolve(&self, _: Name) -> Resolving {
            Box::pin(async { Err(DnsFailure(io::Error::other("no such name")).into()) })
        }
    }
    struct Silent;
    impl Resolve for Silent {
        fn resolve(&self, _: Name) -> Resolving {
            Box::pin(std::future::pending())
        }
    }
    let unknown = failure_with(Unknown).await;
    assert_eq!(unknown.code(), "egress_dns");
    assert_eq!(unknown.to_string(), "name resolution failed: no such name");
    let silent = failure_with(Silent).await;
    assert_eq!(silent.code(), "egress_timeout");
    assert!(!unknown.is_terminal() && !silent.is_terminal());
}

#[tokio::test]
async fn connection_headers_are_refused_before_anything_is_sent() {
    let server = Server::answering(OK).await;
    for name in REFUSED_HEADERS {
        let headers =
            HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static("hidden"))]);
        let error = open()
            .send(EgressRequest {
                headers,
                ..get(&server.url)
            })
            .await
            .unwrap_err();
        assert_eq!(error.code(), "egress_invalid_header");
        assert!(error.is_terminal() && error.to_string().contains(name));
        assert!(!error.to_string().contains("hidden"));
    }
    let tunnel = EgressRequest {
        method: Method::CONNECT,
        ..get(&server.url)
    };
    assert_eq!(refusal(open().send(tunnel).await), Some(Refusal::Method));
    assert_eq!(server.connections(), 0);
}

#[test]
fn urls_are_checked_without_the_network() {
    let check = |url: &str| refusal(closed().check(url));
    for url in [
        "https://example.com/",
        "https://example.com:80/",
        "https://8.8.8.8/hook",
    ] {
        assert!(closed().check(url).is_ok(), "{url}");
    }
    for url in [
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://x/",
        "data:,x",
    ] {
        assert_eq!(check(url), Some(Refusal::Scheme), "{url}");
    }
    for url in ["https://user@example.com/", "https://:pw@example.com/"] {
        assert_eq!(check(url), Some(Refusal::UserInfo), "{url}");
    }
    for url in [
        "http://example.com/",
        "https://example.com:8443/",
        "http://8.8.8.8/",
    ] {
        assert_eq!(check(url), Some(Refusal::NotAllowed), "{url}");
    }
    for url in [
        "https://127.0.0.1./",
        "https://169.254.169.254/latest/meta-data/",
        "https://0/",
        "https://0251.0376.0251.0376/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[fd00:ec2::254]/",
        "https://①②⑦.0.0.1/",
    ] {
        assert_eq!(check(url), Some(Refusal::Address), "{url}");
    }
    for url in [
        "",
        "example.com",
        "/path",
        "https://",
        "https://a b/",
        "https://[::1",
        "https://a..b/",
        &format!("https://{}.test/", "a".repeat(64)),
    ] {
        let error = closed().check(url).unwrap_err();
        assert_eq!(error.code(), "egress_invalid_url", "{url}: {error}");
    }
}

#[test]
fn allow_list_permits_plain_http_and_other_ports_for_its_addresses_only() {
    for url in [
        "http://127.0.0.1/",
        "http://127.9.9.9:8080/",
        "https://[::ffff:127.0.0.1]:8443/",
    ] {
        assert!(open().check(url).is_ok(), "{url}");
    }
    assert_eq!(
        refusal(open().check("http://8.8.8.8/")),
        Some(Refusal::NotAllowed)
    );
    assert_eq!(
        refusal(open().check("https://10.0.0.1/")),
        Some(Refusal::Address)
    );
}
