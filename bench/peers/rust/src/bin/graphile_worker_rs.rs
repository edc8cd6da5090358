//! graphile_worker (Rust). Tuned as its own throughput benchmark (`benches/perf_test.rs`) is: a
//! local queue of 5000, 500 jobs at once, completions batched for 5 ms, a poll every 5 ms. Latency
//! is measured without a local queue, which its guide says trades latency for throughput, and with a
//! poll every 10 ms, as its benchmarks have.

use std::sync::Arc;
use std::time::Duration;

use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, RawJobSpec, TaskHandler, WorkerContext,
    WorkerOptions, WorkerUtils,
};
use harkara_bench_peers::{Mode, Payload, Peer, Stop, ran};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Noop {
    #[serde(flatten)]
    payload: Payload,
}

impl TaskHandler for Noop {
    const IDENTIFIER: &'static str = "noop";

    async fn run(self, _: WorkerContext) -> impl IntoTaskHandlerResult {
        ran(&self.payload);
        Ok::<(), String>(())
    }
}

struct Graphile {
    pool: PgPool,
    utils: WorkerUtils,
}

impl Peer for Graphile {
    async fn setup(url: &str) -> anyhow::Result<()> {
        Self::open(url).await?.utils.migrate().await?;
        Ok(())
    }

    async fn open(url: &str) -> anyhow::Result<Self> {
        let pool = PgPoolOptions::new()
            .max_connections(16)
            .connect(url)
            .await?;
        let utils = WorkerUtils::new(pool.clone(), "graphile_worker");
        Ok(Self { pool, utils })
    }

    async fn enqueue(&self, payload: Payload) -> anyhow::Result<()> {
        self.utils
            .add_job(Noop { payload }, JobSpec::default())
            .await?;
        Ok(())
    }

    async fn enqueue_many(&self, list: Vec<Payload>) -> anyhow::Result<()> {
        let jobs: Vec<RawJobSpec> = list
            .into_iter()
            .map(|payload| {
                Ok(RawJobSpec {
                    identifier: "noop".to_owned(),
                    payload: serde_json::to_value(Noop { payload })?,
                    spec: JobSpec::default(),
                })
            })
            .collect::<anyhow::Result<_>>()?;
        self.utils.add_raw_jobs(&jobs).await?;
        Ok(())
    }

    async fn work(&self, mode: Mode) -> anyhow::Result<Stop> {
        let options = WorkerOptions::default()
            .pg_pool(self.pool.clone())
            .schema("graphile_worker")
            .listen_os_shutdown_signals(false)
            .define_job::<Noop>();
        let options = match mode {
            Mode::Default => options.concurrency(24),
            Mode::Latency => options
                .concurrency(24)
                .poll_interval(Duration::from_millis(10)),
            Mode::Drain => options
                .concurrency(500)
                .poll_interval(Duration::from_millis(5))
                .complete_job_batch_delay(Duration::from_millis(5))
                .local_queue(LocalQueueConfig::default().with_size(5000)),
        };
        let worker = Arc::new(options.init().await?);
        let running = tokio::spawn({
            let worker = worker.clone();
            async move { worker.run().await.map_err(|error| error.to_string()) }
        });
        Ok(Box::pin(async move {
            worker.request_shutdown();
            running.await.ok();
        }))
    }
}

fn main() -> anyhow::Result<()> {
    harkara_bench_peers::main::<Graphile>()
}
