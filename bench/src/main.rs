//! Measures the engine on this machine: durable single and bulk enqueue, drain through the real
//! worker with history kept, and latency from enqueue to start.
//!
//! Takes: PostgreSQL's programs. Gives: a table of medians with their spread. Never: measures with
//! `fsync` off, or anything but what a user's call would do.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use harkara_postgres::{Cluster, Options, Shutdown, discover};
use harkara_queue::job::{NewJob, Trace};
use harkara_queue::{Engine, Handler, Run, Verdict, Worker, WorkerInfo, WorkerOptions};
use harkara_shared::backoff::Backoff;
use harkara_shared::config::QueueConcurrency;
use harkara_shared::database::{self, DatabaseSettings, query};
use harkara_shared::id::{TenantId, WorkerId};
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Benchmarks of the engine.
#[derive(Debug, Parser)]
struct Args {
    /// Jobs of a drain
    #[arg(long, default_value_t = 50_000)]
    jobs: usize,
    /// Rounds; the table shows their median, least and most
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Places of the worker
    #[arg(long, default_value_t = 1000)]
    places: u32,
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the table is the program's output")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let directory = tempfile::tempdir()?;
    let installation = discover(None)?;
    println!(
        "{}, fsync and synchronous_commit on, {} jobs, {} places",
        installation.version(),
        args.jobs,
        args.places
    );
    let cluster = Cluster::start(Options::new(directory.path(), installation)).await?;
    let pool = database::pool(&DatabaseSettings::new(cluster.url()), "bench")?;
    database::migrate(&pool).await?;
    let engine = Engine::new(pool.clone(), true);
    let bench = Bench {
        engine,
        tenant: TenantId::new(),
    };

    let mut table: Vec<(&str, Vec<f64>)> = Vec::new();
    let mut put = |name, value| match table.iter_mut().find(|(known, _)| *known == name) {
        Some((_, values)) => values.push(value),
        None => table.push((name, vec![value])),
    };
    for _ in 0..args.rounds {
        put(
            "single enqueue, 16 callers, jobs/s",
            bench.singles(16, 4000).await?,
        );
        bench.clear().await?;
        put(
            "bulk enqueue, 1000 a call, jobs/s",
            bench.bulk(args.jobs).await?,
        );
        put(
            "drain, one row a job, jobs/s",
            bench.drain(args.jobs, args.places).await?,
        );
        bench.clear().await?;
        let mut waits = bench.latency(500).await?;
        waits.sort_by(f64::total_cmp);
        put("enqueue to start at 50/s, p50 ms", at(&waits, 0.5));
        put("enqueue to start at 50/s, p99 ms", at(&waits, 0.99));
        bench.clear().await?;
    }
    for (name, mut values) in table {
        values.sort_by(f64::total_cmp);
        println!(
            "{name:<40} {:>10.1} [{:.1} - {:.1}]",
            at(&values, 0.5),
            at(&values, 0.0),
            at(&values, 1.0)
        );
    }
    pool.close().await;
    cluster.stop(Shutdown::Fast).await?;
    Ok(())
}

/// The value at a share of a sorted list.
fn at(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index of a short list"
    )]
    let index = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn rate(jobs: usize, took: Duration) -> f64 {
    jobs as f64 / took.as_secs_f64()
}

#[derive(Clone)]
struct Bench {
    engine: Engine,
    tenant: TenantId,
}

impl Bench {
    fn job() -> anyhow::Result<NewJob> {
        Ok(NewJob {
            kind: "bench.noop".to_owned(),
            queue: "bench".to_owned(),
            payload: RawValue::from_string(
                r#"{"nothing":"to do, in forty-eight bytes or so"}"#.to_owned(),
            )?,
            priority: 5,
            run_at: None,
            delay: Duration::ZERO,
            max_attempts: 3,
            timeout: Duration::from_secs(30),
            backoff: Backoff::default(),
            unique: None,
            tags: Vec::new(),
            trace: Trace::default(),
        })
    }

    async fn enqueue(&self, jobs: Vec<NewJob>) -> anyhow::Result<()> {
        let mut tx = self.engine.pool().begin().await?;
        self.engine.enqueue_all(&mut tx, self.tenant, jobs).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Each caller waits for the durable answer before its next job.
    async fn singles(&self, callers: usize, jobs: usize) -> anyhow::Result<f64> {
        self.enqueue(vec![Self::job()?]).await?;
        let started = Instant::now();
        let mut calling = tokio::task::JoinSet::new();
        for _ in 0..callers {
            let bench = self.clone();
            calling.spawn(async move {
                for _ in 0..jobs / callers {
                    bench.enqueue(vec![Self::job()?]).await?;
                }
                anyhow::Ok(())
            });
        }
        for called in calling.join_all().await {
            called?;
        }
        Ok(rate(jobs, started.elapsed()))
    }

    async fn bulk(&self, jobs: usize) -> anyhow::Result<f64> {
        let started = Instant::now();
        for _ in 0..jobs / 1000 {
            self.enqueue(vec![Self::job()?; 1000]).await?;
        }
        Ok(rate(jobs, started.elapsed()))
    }

    /// From the start of the worker to its end, when the last outcome is durable.
    async fn drain(&self, jobs: usize, places: u32) -> anyhow::Result<f64> {
        let handler = Arc::new(Count {
            left: AtomicUsize::new(jobs),
            done: Notify::new(),
            starts: None,
        });
        let started = Instant::now();
        let stop = CancellationToken::new();
        let worker = tokio::spawn(self.worker(Arc::clone(&handler), places).run(stop.clone()));
        handler.done.notified().await;
        stop.cancel();
        worker.await??;
        Ok(rate(jobs, started.elapsed()))
    }

    /// Milliseconds from the enqueue call to the handler, one job after another at an even pace.
    async fn latency(&self, jobs: usize) -> anyhow::Result<Vec<f64>> {
        let (told, mut starts) = mpsc::unbounded_channel();
        let handler = Arc::new(Count {
            left: AtomicUsize::new(usize::MAX),
            done: Notify::new(),
            starts: Some(told),
        });
        let stop = CancellationToken::new();
        let worker = tokio::spawn(self.worker(handler, 64).run(stop.clone()));
        let mut waits = Vec::with_capacity(jobs);
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        for nth in 0..jobs + 10 {
            pace.tick().await;
            let called = Instant::now();
            self.enqueue(vec![Self::job()?]).await?;
            let Some(start) = starts.recv().await else {
                break;
            };
            // The first ones meet cold caches and connections.
            if nth >= 10 {
                waits.push(start.duration_since(called).as_secs_f64() * 1000.0);
            }
        }
        stop.cancel();
        worker.await??;
        Ok(waits)
    }

    fn worker(&self, handler: Arc<Count>, places: u32) -> Worker {
        let options = WorkerOptions {
            info: WorkerInfo {
                id: WorkerId::new(),
                host: "bench".to_owned(),
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                queues: serde_json::json!({"bench": places}),
            },
            queues: vec![QueueConcurrency {
                queue: "bench".to_owned(),
                concurrency: places,
            }],
            lease: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            listen_url: None,
        };
        Worker::new(self.engine.clone(), options, handler)
    }

    async fn clear(&self) -> anyhow::Result<()> {
        query("truncate queue.parcels")
            .execute(self.engine.pool())
            .await?;
        Ok(())
    }
}

/// A handler with nothing to do but to be counted.
struct Count {
    left: AtomicUsize,
    done: Notify,
    starts: Option<mpsc::UnboundedSender<Instant>>,
}

impl Handler for Count {
    fn run(&self, _: Run) -> Pin<Box<dyn Future<Output = Verdict> + Send>> {
        if let Some(starts) = &self.starts {
            starts.send(Instant::now()).ok();
        }
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.done.notify_one();
        }
        Box::pin(std::future::ready(Verdict::done()))
    }
}
