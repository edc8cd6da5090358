//! A minimal HTTP/1.1 client and receiver, so that the measuring side costs next to nothing.
//!
//! Requests are bytes that are composed once. Supports only kept-alive connections with
//! `content-length`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// A kept-alive connection, on either side.
pub(crate) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

/// A message that arrived.
struct Message {
    head: String,
    body: Vec<u8>,
}

/// A POST of JSON as it goes over the wire.
pub(crate) fn post(path: &str, key: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A GET as it goes over the wire.
pub(crate) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n").into_bytes()
}

/// A GET that carries a key.
pub(crate) fn get_as(path: &str, key: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n\r\n")
        .into_bytes()
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self::on(TcpStream::connect(address).await?))
    }

    fn on(stream: TcpStream) -> Self {
        stream.set_nodelay(true).ok();
        Self {
            stream,
            read: Vec::with_capacity(16 * 1024),
        }
    }

    /// Sends a request and returns the status and body of its response.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> anyhow::Result<(u16, String)> {
        self.stream.write_all(request).await?;
        let answer = self
            .message()
            .await?
            .context("the server closed the connection")?;
        let status = answer
            .head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .context("a response without a status")?;
        Ok((status, String::from_utf8_lossy(&answer.body).into_owned()))
    }

    /// The next message; `None` when the peer has closed the connection.
    async fn message(&mut self) -> anyhow::Result<Option<Message>> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(self.read.get(..end).unwrap_or_default()).into_owned();
        let length = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(Ok(0), |(_, length)| length.trim().parse::<usize>())?;
        while self.read.len() < end + length {
            anyhow::ensure!(
                self.stream.read_buf(&mut self.read).await? > 0,
                "a message was cut off"
            );
        }
        let rest = self.read.split_off(end + length);
        let body = self.read.split_off(end);
        self.read = rest;
        Ok(Some(Message { head, body }))
    }
}

/// A receiver that accepts every request and counts.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    counts: Arc<Counts>,
}

struct Counts {
    hits: AtomicUsize,
    goal: usize,
    ends: Mutex<(Option<Instant>, Option<Instant>)>,
    /// The `webhook-id` of each counted request, and when it arrived.
    arrivals: Mutex<Vec<(String, Instant)>>,
    reached: Notify,
}

impl Sink {
    /// Starts listening; [`Sink::all`] waits for `goal` requests.
    pub(crate) async fn start(goal: usize) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts {
            hits: AtomicUsize::new(0),
            goal,
            ends: Mutex::new((None, None)),
            arrivals: Mutex::new(Vec::with_capacity(goal)),
            reached: Notify::new(),
        });
        let counting = Arc::clone(&counts);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(Connection::on(stream), Arc::clone(&counting)));
            }
        });
        Ok(Self { address, counts })
    }

    /// Requests so far.
    pub(crate) fn hits(&self) -> usize {
        self.counts.hits.load(Ordering::SeqCst)
    }

    /// The `webhook-id` of each counted request, and when it arrived.
    pub(crate) fn arrivals(&self) -> Vec<(String, Instant)> {
        let arrivals = &self.counts.arrivals;
        arrivals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits for the last request and returns the seconds from the first to the last.
    pub(crate) async fn all(&self) -> f64 {
        self.counts.reached.notified().await;
        let ends = self
            .counts
            .ends
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match *ends {
            (Some(first), Some(last)) => last.duration_since(first).as_secs_f64(),
            _ => f64::NAN,
        }
    }
}

/// Responds to requests: never to `/hang`, with 500 to `/500`, uncounted to `/spare-…`.
async fn serve(mut connection: Connection, counts: Arc<Counts>) {
    while let Ok(Some(message)) = connection.message().await {
        let path = message.head.split(' ').nth(1).unwrap_or_default();
        let answer: &[u8] = match path {
            "/hang" => std::future::pending().await,
            "/500" => b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
            _ => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        };
        if !matches!(path, "/500") && !path.starts_with("/spare-") {
            counts.record(&message.head, Instant::now());
        }
        if connection.stream.write_all(answer).await.is_err() {
            break;
        }
    }
}

impl Counts {
    fn record(&self, head: &str, now: Instant) {
        let id = head
            .lines()
            .find_map(|line| line.strip_prefix("webhook-id: "));
        if let Some(id) = id {
            let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
            arrivals.push((id.to_owned(), now));
        }
        let hits = self.hits.fetch_add(1, Ordering::SeqCst) + 1;
        if hits == 1 || hits == self.goal {
            let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
            if hits == 1 {
                ends.0 = Some(now);
            }
            if hits == self.goal {
                ends.1 = Some(now);
                self.reached.notify_one();
            }
        }
    }
}
