//! What all peers in Rust share: the commands, the clocks, and the one line of
//! JSON that is the result. The same commands as `../node/common.mjs`:
//!
//! ```text
//! setup                     make the schema (once a database)
//! bulk N                    enqueue N jobs, 1000 a call
//! single CALLERS N          enqueue N jobs, one a call, CALLERS at a time
//! drain N [default]         run N jobs; tuned for throughput, or with the author's defaults
//! latency N RATE            enqueue N jobs at RATE a second and run them as they come
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until, timeout};

/// What a worker is optimised for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Throughput, as the author advises.
    Drain,
    /// The author's defaults.
    Default,
    /// Jobs that come one by one.
    Latency,
}

/// What every job carries: the same 48 bytes of JSON for every contender, or its number.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Payload {
    Nothing { nothing: String },
    Number { n: usize },
}

impl Payload {
    pub fn nothing() -> Self {
        let nothing = "to do, in forty-eight bytes or so".to_owned();
        Self::Nothing { nothing }
    }
}

/// Ends a worker.
pub type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One library.
pub trait Peer: Send + Sync + Sized + 'static {
    fn setup(url: &str) -> impl Future<Output = anyhow::Result<()>>;
    fn open(url: &str) -> impl Future<Output = anyhow::Result<Self>> + Send;
    fn enqueue(&self, payload: Payload) -> impl Future<Output = anyhow::Result<()>> + Send;
    fn enqueue_many(&self, list: Vec<Payload>) -> impl Future<Output = anyhow::Result<()>> + Send;
    /// Starts a worker whose handlers call [`ran`].
    fn work(&self, mode: Mode) -> impl Future<Output = anyhow::Result<Stop>> + Send;
}

#[derive(Default)]
struct Runs {
    /// Handlers that ran.
    count: AtomicUsize,
    /// How many are awaited.
    wanted: AtomicUsize,
    /// When each number ran.
    starts: Mutex<Vec<(usize, Instant)>>,
    all: Notify,
}

fn runs() -> &'static Runs {
    static RUNS: OnceLock<Runs> = OnceLock::new();
    RUNS.get_or_init(Runs::default)
}

/// Every handler calls this first.
pub fn ran(payload: &Payload) {
    let runs = runs();
    if let Payload::Number { n } = payload {
        runs.starts.lock().unwrap().push((*n, Instant::now()));
    }
    if runs.count.fetch_add(1, Ordering::Relaxed) + 1 == runs.wanted.load(Ordering::Relaxed) {
        runs.all.notify_one();
    }
}

/// The program of a peer.
pub fn main<P: Peer>() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| -> anyhow::Result<usize> {
        Ok(words.get(at).context("a number is missing")?.parse()?)
    };
    let url = std::env::var("DATABASE_URL").context("DATABASE_URL")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let answer = runtime.block_on(async {
        match words.first().map(String::as_str) {
            Some("setup") => P::setup(&url).await.map(|()| json!({})),
            Some("bulk") => bulk::<P>(&url, number(1)?).await,
            Some("single") => single::<P>(&url, number(1)?, number(2)?).await,
            Some("drain") => {
                let default = words.get(2).is_some_and(|word| word == "default");
                let mode = if default { Mode::Default } else { Mode::Drain };
                drain::<P>(&url, number(1)?, mode).await
            }
            Some("latency") => latency::<P>(&url, number(1)?, number(2)?).await,
            _ => anyhow::bail!("setup, bulk, single, drain or latency?"),
        }
    })?;
    println!("{answer}");
    // Some libraries leave tasks behind that would be waited for.
    std::process::exit(0)
}

async fn bulk<P: Peer>(url: &str, jobs: usize) -> anyhow::Result<Value> {
    let peer = P::open(url).await?;
    let from = Instant::now();
    for done in (0..jobs).step_by(1000) {
        let list = vec![Payload::nothing(); (jobs - done).min(1000)];
        peer.enqueue_many(list).await?;
    }
    Ok(json!({"jobs": jobs, "seconds": from.elapsed().as_secs_f64()}))
}

async fn single<P: Peer>(url: &str, callers: usize, jobs: usize) -> anyhow::Result<Value> {
    let peer = std::sync::Arc::new(P::open(url).await?);
    peer.enqueue(Payload::nothing()).await?;
    let each = jobs / callers;
    let from = Instant::now();
    let mut calling = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let peer = peer.clone();
        calling.spawn(async move {
            for _ in 0..each {
                peer.enqueue(Payload::nothing()).await?;
            }
            anyhow::Ok(())
        });
    }
    for called in calling.join_all().await {
        called?;
    }
    Ok(json!({"jobs": each * callers, "seconds": from.elapsed().as_secs_f64()}))
}

// The clock stops when the last handler has run, so that no peer pays for the time of its shutdown.
async fn drain<P: Peer>(url: &str, jobs: usize, mode: Mode) -> anyhow::Result<Value> {
    let peer = P::open(url).await?;
    runs().wanted.store(jobs, Ordering::Relaxed);
    let from = Instant::now();
    let stop = peer.work(mode).await?;
    runs().all.notified().await;
    let took = from.elapsed();
    timeout(Duration::from_secs(15), stop).await.ok();
    Ok(json!({"jobs": jobs, "seconds": took.as_secs_f64()}))
}

async fn latency<P: Peer>(url: &str, jobs: usize, rate: usize) -> anyhow::Result<Value> {
    // The first ones meet cold caches and connections and are not counted.
    const WARM: usize = 20;
    let peer = std::sync::Arc::new(P::open(url).await?);
    runs().wanted.store(jobs + WARM, Ordering::Relaxed);
    let stop = peer.work(Mode::Latency).await?;
    sleep(Duration::from_millis(500)).await;
    let from = tokio::time::Instant::now();
    let mut calling = tokio::task::JoinSet::new();
    let mut called = Vec::with_capacity(jobs + WARM);
    for n in 0..jobs + WARM {
        sleep_until(from + Duration::from_secs(1) * u32::try_from(n)? / u32::try_from(rate)?).await;
        called.push(Instant::now());
        let peer = peer.clone();
        calling.spawn(async move { peer.enqueue(Payload::Number { n }).await });
    }
    for called in calling.join_all().await {
        called?;
    }
    timeout(Duration::from_secs(20), runs().all.notified())
        .await
        .ok();
    let starts = std::mem::take(&mut *runs().starts.lock().unwrap());
    timeout(Duration::from_secs(15), stop).await.ok();
    let mut waits: Vec<f64> = starts
        .into_iter()
        .filter(|(n, _)| (WARM..jobs + WARM).contains(n))
        .map(|(n, start)| start.duration_since(called[n]).as_secs_f64() * 1000.0)
        .collect();
    waits.sort_by(f64::total_cmp);
    anyhow::ensure!(!waits.is_empty(), "nothing ran");
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share).round() as usize];
    Ok(json!({
        "jobs": jobs,
        "lost": jobs - waits.len().min(jobs),
        "p50": at(0.5),
        "p95": at(0.95),
        "p99": at(0.99),
        "max": at(1.0),
    }))
}
