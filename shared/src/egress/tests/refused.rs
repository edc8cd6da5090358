//! Tests that forbidden targets are refused terminally and without opening a connection.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::process::Command;

use ipnet::IpNet;
use reqwest::dns::Addrs;

use super::super::address::tests::SPECIAL;
use super::super::dns::SystemResolver;
use super::*;

/// Listeners on this machine that must receive no connection.
struct Untouched(Vec<TcpListener>);

impl Untouched {
    /// One on each loopback address of the machine; without IPv6, `::1` cannot be reached anyway.
    fn listen() -> Self {
        let bound = ["127.0.0.1:0", "[::1]:0"].map(TcpListener::bind);
        let listeners: Vec<TcpListener> = bound.into_iter().flatten().collect();
        for listener in &listeners {
            listener.set_nonblocking(true).unwrap();
        }
        Self(listeners)
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let address = |listener: &TcpListener| listener.local_addr().unwrap();
        self.0.iter().map(address).collect()
    }

    /// The kernel completes connections before they are accepted, so an unwanted one would be pending here.
    fn assert(&self) {
        for listener in &self.0 {
            let kind = listener
                .accept()
                .map(|(_, from)| from)
                .map_err(|e| e.kind());
            assert_eq!(kind, Err(io::ErrorKind::WouldBlock), "{listener:?}");
        }
    }
}

/// A resolver that returns its answers in order and counts the queries.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Vec<SocketAddr>>>,
    queries: AtomicUsize,
}

impl Script {
    fn of(answers: impl IntoIterator<Item = Vec<SocketAddr>>) -> Arc<Self> {
        Arc::new(Self {
            answers: Mutex::new(answers.into_iter().collect()),
            queries: AtomicUsize::new(0),
        })
    }
}

impl Resolve for Script {
    fn resolve(&self, _: Name) -> Resolving {
        self.queries.fetch_add(1, SeqCst);
        let answer = self.answers.lock().unwrap().pop_front().unwrap();
        Box::pin(async move { Ok(Box::new(answer.into_iter()) as Addrs) })
    }
}

fn egress(allow: &str, names: Arc<dyn Resolve>) -> Egress {
    let allow = allow.split_whitespace().map(|net| net.parse().unwrap());
    Egress::with(allow.collect(), client_config().unwrap(), names).unwrap()
}

/// Asserts that a request is refused terminally.
async fn assert_refused(egress: &Egress, url: &str) {
    match egress.send(get(url)).await {
        Err(error @ EgressError::Refused(_)) => assert!(error.is_terminal(), "{url}"),
        other => panic!("{url}: {other:?}"),
    }
}

/// Every notation of this machine's addresses that the operating system understands.
const LOCAL_HOSTS: &str = "127.0.0.1 127.0.0.1. 127.1 127.0.1 2130706433 0x7f000001 0x7f.1 0177.0.0.1 \
    017700000001 0 0.0.0.0 127.255.255.254 ①②⑦.0.0.1 127。0。0。1 %31%32%37.0.0.1 localhost LOCALHOST \
    [::1] [::] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] [64:ff9b::127.0.0.1] \
    [64:ff9b::7f00:1] [64:ff9b:1::7f00:1] [2002:7f00:1::] [2001:0:7f00:1::]";

#[tokio::test]
async fn forbidden_url_is_refused_in_every_notation_without_a_connection() {
    let untouched = Untouched::listen();
    let nets: Vec<IpNet> = SPECIAL
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    let special = nets.iter().flat_map(|net| [net.network(), net.broadcast()]);
    let hosts: Vec<String> = special
        .map(|address| match address {
            std::net::IpAddr::V4(v4) => v4.to_string(),
            std::net::IpAddr::V6(v6) => format!("[{v6}]"),
        })
        .chain(LOCAL_HOSTS.split_whitespace().map(str::to_owned))
        .collect();
    // The second must resolve names and check addresses even on other ports than 80 and 443.
    let strict = [closed(), egress("10.11.12.13/32", Arc::new(SystemResolver))];
    for address in untouched.addresses() {
        let port = address.port();
        for egress in &strict {
            for host in &hosts {
                for url in [
                    format!("https://{host}/"),
                    format!("https://{host}:{port}/"),
                    format!("http://{host}:{port}/"),
                ] {
                    assert_refused(egress, &url).await;
                }
            }
            for url in [
                format!("https://user:secret@{address}/"),
                format!("https://user@localhost:{port}/"),
                "https://user:secret@example.com/".to_owned(),
                format!("https://8.8.8.8:{port}/"),
                "https://8.8.8.8:22/".to_owned(),
                "https://8.8.8.8:0/".to_owned(),
                "http://8.8.8.8/".to_owned(),
                format!("ftp://{address}/"),
                format!("ws://{address}/"),
            ] {
                assert_refused(egress, &url).await;
            }
        }
    }
    untouched.assert();
}

#[tokio::test]
async fn name_with_only_private_addresses_is_refused_on_every_port() {
    let untouched = Untouched::listen();
    let private = untouched.addresses();
    let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), private[0].port());
    let nat64 = SocketAddr::new("64:ff9b::7f00:1".parse().unwrap(), private[0].port());
    for found in [private, vec![mapped], vec![nat64]] {
        for url in [
            "https://inside.example/",
            "https://inside.example:80/",
            "https://inside.example:8443/",
            "http://inside.example/",
        ] {
            let names = Script::of([found.clone()]);
            let egress = egress("10.11.12.13/32", names.clone());
            assert_refused(&egress, url).await;
            assert_eq!(names.queries.load(SeqCst), 1, "{url}");
        }
    }
    untouched.assert();
}

#[tokio::test]
async fn private_address_among_public_ones_is_never_connected_to() {
    let untouched = Untouched::listen();
    let server = Server::answering(OK).await;
    // The last case shows that there is no fallback to a private address when the permitted one fails.
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let private = SocketAddr::new(
        "::1".parse().unwrap(),
        untouched.addresses().pop().unwrap().port(),
    );
    for (found, code) in [
        (vec![private, server.address], None),
        (vec![server.address, private], None),
        (vec![private, gone, private], Some("egress_connect")),
    ] {
        let egress = egress("127.0.0.1/32", Script::of([found]));
        let answer = egress.send(get("http://mixed.example/")).await;
        match code {
            None => assert_eq!(answer.unwrap().address, Some(server.address.ip())),
            Some(code) => assert_eq!(answer.unwrap_err().code(), code),
        }
    }
    assert_eq!(server.connections(), 2);
    untouched.assert();
}

/// A response after which the connection is not reused.
const CLOSING: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn rebinding_name_is_checked_for_each_connection() {
    let untouched = Untouched::listen();
    let server = Server::answering(CLOSING).await;
    let private = SocketAddr::new(
        "::1".parse().unwrap(),
        untouched.addresses().pop().unwrap().port(),
    );
    let names = Script::of([vec![server.address], vec![private]]);
    let egress = egress("127.0.0.1/32", names.clone());
    let url = "http://rebinding.example/";
    egress.check(url).unwrap();
    // Resolved once, although both the check and the connection need the address.
    let answer = egress.send(get(url)).await.unwrap();
    assert_eq!(answer.address, Some(server.address.ip()));
    assert_eq!(names.queries.load(SeqCst), 1);
    // The first connection was closed, so this request opens another.
    assert_refused(&egress, url).await;
    assert_eq!(names.queries.load(SeqCst), 2);
    assert_eq!(server.connections(), 1);
    untouched.assert();
}

#[tokio::test]
async fn redirect_to_a_private_address_is_not_followed_and_its_target_is_refused() {
    let untouched = Untouched::listen();
    for address in untouched.addresses() {
        let target = format!("https://localhost:{}/", address.port());
        for status in [
            "301 Moved",
            "302 Found",
            "303 See",
            "307 Again",
            "308 There",
        ] {
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nlocation: {target}\r\n\r\n");
            let outer = Server::answering(answer.into_bytes()).await;
            let response = open().send(get(&outer.url)).await.unwrap();
            assert_eq!(response.headers[header::LOCATION], target);
        }
        assert_refused(&closed(), &target).await;
    }
    untouched.assert();
}

#[test]
fn proxies_from_the_environment_are_not_used() {
    let untouched = Untouched::listen();
    let proxy = format!("http://{}", untouched.addresses()[0]);
    let test = "egress::tests::allowed_private_address_receives_the_request";
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact"])
        .envs(["http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"].map(|name| (name, &proxy)))
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("1 passed"), "{stdout}");
    untouched.assert();
}
