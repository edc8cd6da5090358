//! awa. Tuned as its own benchmark (`tests/benchmark_test.rs`) is: many workers (1024), the full
//! claim batch (512), a poll interval of 50 ms, no deadlines; bulk through its COPY call. Latency is
//! measured with the same.

use std::time::Duration;

use awa::{Client, InsertOpts, InsertParams, JobArgs, JobResult, QueueConfig};
use harkara_bench_peers::{Mode, Payload, Peer, Stop, ran};
use serde::{Deserialize, Serialize};
use sqlx08::PgPool;
use sqlx08::postgres::PgPoolOptions;

#[derive(Debug, Serialize, Deserialize, JobArgs)]
struct Noop {
    #[serde(flatten)]
    payload: Payload,
}

struct Awa {
    pool: PgPool,
}

impl Peer for Awa {
    async fn setup(url: &str) -> anyhow::Result<()> {
        awa::migrations::run(&PgPool::connect(url).await?).await?;
        Ok(())
    }

    async fn open(url: &str) -> anyhow::Result<Self> {
        let pool = PgPoolOptions::new()
            .max_connections(20)
            .connect(url)
            .await?;
        Ok(Self { pool })
    }

    async fn enqueue(&self, payload: Payload) -> anyhow::Result<()> {
        awa::insert_with(&self.pool, &Noop { payload }, InsertOpts::default()).await?;
        Ok(())
    }

    async fn enqueue_many(&self, list: Vec<Payload>) -> anyhow::Result<()> {
        let jobs: Vec<InsertParams> = list
            .into_iter()
            .map(|payload| {
                Ok(InsertParams {
                    kind: Noop::kind().to_owned(),
                    args: serde_json::to_value(Noop { payload })?,
                    opts: InsertOpts::default(),
                })
            })
            .collect::<anyhow::Result<_>>()?;
        awa::insert_many_copy_from_pool(&self.pool, &jobs).await?;
        Ok(())
    }

    async fn work(&self, mode: Mode) -> anyhow::Result<Stop> {
        let config = match mode {
            Mode::Default => QueueConfig::default(),
            Mode::Drain | Mode::Latency => QueueConfig {
                max_workers: 1024,
                claim_batch_size: 512,
                poll_interval: Duration::from_millis(50),
                deadline_duration: Duration::ZERO,
                ..QueueConfig::default()
            },
        };
        let client = Client::builder(self.pool.clone())
            .queue("default", config)
            .register::<Noop, _, _>(|args, _| async move {
                ran(&args.payload);
                Ok(JobResult::Completed)
            })
            .build()?;
        client.start().await?;
        Ok(Box::pin(async move {
            client.shutdown(Duration::from_secs(10)).await;
        }))
    }
}

fn main() -> anyhow::Result<()> {
    harkara_bench_peers::main::<Awa>()
}
