//! riverqueue. Tuned through the settings its documentation names as the limits of throughput: a
//! fetch cooldown of 2 ms in place of 100 ms, a poll interval of 20 ms, 2000 workers.
//! `QueueConfig::with_fetch_cooldown`: "Throughput is limited by this value." Latency is measured
//! with the same.

use std::time::Duration;

use harkara_bench_peers::{Mode, Payload, Peer, Stop, ran};
use riverqueue::migrate::PostgresMigrator;
use riverqueue::{BoxError, Client, Job, JobArgs, QueueConfig, WorkContext, WorkOutcome, Workers};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

const COOLDOWN: Duration = Duration::from_millis(2);

#[derive(Clone, Debug, Deserialize, JobArgs, Serialize)]
#[river(kind = "noop")]
struct Noop {
    #[serde(flatten)]
    payload: Payload,
}

async fn noop(_: WorkContext, job: Job<Noop>) -> Result<WorkOutcome, BoxError> {
    ran(&job.args.payload);
    Ok(WorkOutcome::Complete)
}

struct River {
    pool: PgPool,
    client: Client,
}

impl Peer for River {
    async fn setup(url: &str) -> anyhow::Result<()> {
        PostgresMigrator::new(PgPool::connect(url).await?)
            .migrate_up()
            .await?;
        Ok(())
    }

    async fn open(url: &str) -> anyhow::Result<Self> {
        let pool = PgPoolOptions::new()
            .max_connections(16)
            .connect(url)
            .await?;
        // The cooldown also holds back the notifications of the client that inserts.
        let client = Client::builder(pool.clone())
            .fetch_cooldown(COOLDOWN)
            .build()?;
        Ok(Self { pool, client })
    }

    async fn enqueue(&self, payload: Payload) -> anyhow::Result<()> {
        self.client.insert(Noop { payload }).await?;
        Ok(())
    }

    async fn enqueue_many(&self, list: Vec<Payload>) -> anyhow::Result<()> {
        self.client
            .insert_many(list.into_iter().map(|payload| Noop { payload }))
            .await?;
        Ok(())
    }

    async fn work(&self, mode: Mode) -> anyhow::Result<Stop> {
        let mut workers = Workers::new();
        workers.add_fn(noop)?;
        let builder = Client::builder(self.pool.clone()).workers(workers);
        let builder = match mode {
            Mode::Default => builder.queue("default", QueueConfig::new(100)),
            Mode::Drain | Mode::Latency => builder.fetch_cooldown(COOLDOWN).queue(
                "default",
                QueueConfig::new(2000).with_fetch_poll_interval(Duration::from_millis(20)),
            ),
        };
        let mut run = builder.build()?.start()?;
        Ok(Box::pin(async move {
            run.stop().await.ok();
        }))
    }
}

fn main() -> anyhow::Result<()> {
    harkara_bench_peers::main::<River>()
}
