//! apalis-postgres. Its configuration offers two settings for throughput, both used: a batch of 1000
//! in place of 10, and `lock_tasks` off, which spares one round trip a task. Latency: `with_pubsub`
//! (LISTEN/NOTIFY) with a poll behind it, as its documentation shows, every 100 ms here; without the
//! poll jobs are left behind at 1000 a second.

use std::time::Duration;

use apalis::prelude::*;
use apalis_postgres::{Config, PostgresStorage};
use harkara_bench_peers::{Mode, Payload, Peer, Stop, ran};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

const QUEUE: &str = "noop";

struct Apalis {
    pool: PgPool,
}

impl Apalis {
    fn storage(&self, config: Config) -> PostgresStorage<Payload> {
        PostgresStorage::new(&self.pool).with_config(config.queue(QUEUE))
    }
}

async fn noop(payload: Payload) -> Result<(), BoxDynError> {
    ran(&payload);
    Ok(())
}

impl Peer for Apalis {
    async fn setup(url: &str) -> anyhow::Result<()> {
        PostgresStorage::setup(&PgPool::connect(url).await?).await?;
        Ok(())
    }

    async fn open(url: &str) -> anyhow::Result<Self> {
        let pool = PgPoolOptions::new()
            .max_connections(16)
            .connect(url)
            .await?;
        Ok(Self { pool })
    }

    async fn enqueue(&self, payload: Payload) -> anyhow::Result<()> {
        self.storage(Config::default()).push(payload).await?;
        Ok(())
    }

    async fn enqueue_many(&self, list: Vec<Payload>) -> anyhow::Result<()> {
        self.storage(Config::default()).push_bulk(list).await?;
        Ok(())
    }

    async fn work(&self, mode: Mode) -> anyhow::Result<Stop> {
        let context = WorkerContext::new("bench");
        let running = match mode {
            Mode::Default => {
                let worker = WorkerBuilder::new(&context)
                    .backend(self.storage(Config::default()))
                    .build(noop);
                tokio::spawn(async move { worker.run().await.map_err(|error| error.to_string()) })
            }
            Mode::Drain => {
                let config = Config::default().batch_size(1000).lock_tasks(false);
                let worker = WorkerBuilder::new(&context)
                    .backend(self.storage(config))
                    .build(noop);
                tokio::spawn(async move { worker.run().await.map_err(|error| error.to_string()) })
            }
            Mode::Latency => {
                let config = Config::default().batch_size(1000).lock_tasks(false);
                let worker =
                    WorkerBuilder::new(&context)
                        .backend(self.storage(config).with_pubsub().poll_with_strategy(
                            Strategy::new().interval(Duration::from_millis(100)),
                        ))
                        .build(noop);
                tokio::spawn(async move { worker.run().await.map_err(|error| error.to_string()) })
            }
        };
        Ok(Box::pin(async move {
            context.stop().ok();
            running.await.ok();
        }))
    }
}

fn main() -> anyhow::Result<()> {
    harkara_bench_peers::main::<Apalis>()
}
