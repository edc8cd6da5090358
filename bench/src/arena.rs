//! Room: the private database server that all contenders share, one after another.
//! Takes: a directory. Gives: a fresh database for every measurement, made from a template, and what
//! a measurement cost the server. Never: gives one contender other settings than another.

use std::path::Path;
use std::time::Duration;

use harkara_postgres::{Cluster, Options, Shutdown, discover};
use harkara_shared::database::{self, DatabaseSettings, query, query_as, query_scalar};
use sqlx::PgPool;

/// The server's settings, the same for everybody. Durability is on throughout; the rest is what a
/// machine with a few gigabytes to spare is usually given.
pub(crate) const SETTINGS: [(&str, &str); 17] = [
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("full_page_writes", "on"),
    ("shared_buffers", "2GB"),
    ("wal_compression", "lz4"),
    ("wal_buffers", "64MB"),
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "15min"),
    ("autovacuum", "on"),
    ("autovacuum_naptime", "10s"),
    ("autovacuum_vacuum_cost_limit", "2000"),
    ("jit", "off"),
    ("random_page_cost", "1.1"),
    ("effective_cache_size", "6GB"),
    ("work_mem", "16MB"),
    ("maintenance_work_mem", "256MB"),
    ("max_connections", "300"),
];

/// The database that Harkara's schema is made in, and copied from.
pub(crate) const OURS: &str = "harkara";

/// The server.
pub(crate) struct Arena {
    cluster: Cluster,
    admin: PgPool,
}

/// What the server had written and committed at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter {
    wal: f64,
    transactions: f64,
}

/// What a measurement cost the server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Bytes of write-ahead log.
    pub(crate) wal: f64,
    /// Transactions, those that only read included.
    pub(crate) transactions: f64,
}

impl Arena {
    /// Starts the server in `directory` and makes Harkara's schema in it.
    pub(crate) async fn start(directory: &Path) -> anyhow::Result<Self> {
        let settings = SETTINGS
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let cluster = Cluster::start(Options {
            settings,
            ephemeral: true,
            ..Options::new(directory, discover(None)?)
        })
        .await?;
        let url = in_database(&cluster.superuser_url(), "postgres");
        let admin = database::pool(&DatabaseSettings::new(url), "bench-admin")?;
        let arena = Self { cluster, admin };
        let pool = database::pool(&DatabaseSettings::new(arena.cluster.url()), "bench")?;
        database::migrate(&pool).await?;
        pool.close().await;
        arena.alone(OURS).await?;
        Ok(arena)
    }

    /// The server's version.
    pub(crate) fn version(&self) -> &str {
        self.cluster.installation().version()
    }

    /// The address of a database, for Harkara's login.
    pub(crate) fn url(&self, name: &str) -> String {
        in_database(&self.cluster.url(), name)
    }

    /// The address of a database, for a peer, who owns all of it.
    pub(crate) fn peer_url(&self, name: &str) -> String {
        in_database(&self.cluster.superuser_url(), name)
    }

    /// Makes `name` anew as a copy of `template`, and has everything before it written out.
    pub(crate) async fn fresh(&self, template: &str, name: &str) -> anyhow::Result<()> {
        self.drop(name).await?;
        let owner = if template == OURS {
            "harkara"
        } else {
            "postgres"
        };
        self.say(format!(
            "create database {name} template {template} owner {owner}"
        ))
        .await?;
        self.say("checkpoint".to_owned()).await
    }

    /// Drops a database, whoever is still connected to it.
    pub(crate) async fn drop(&self, name: &str) -> anyhow::Result<()> {
        self.say(format!("drop database if exists {name} with (force)"))
            .await
    }

    /// What has been written and committed so far. Sessions of the database must have ended, as
    /// running ones tell their counts late.
    pub(crate) async fn meter(&self, name: &str) -> anyhow::Result<Meter> {
        self.alone(name).await?;
        let (wal, transactions): (f64, f64) = query_as(
            "select (pg_current_wal_insert_lsn() - '0/0')::float8,
                    coalesce(sum(xact_commit + xact_rollback), 0)::float8
             from pg_stat_database where datname = $1",
        )
        .bind(name)
        .fetch_one(&self.admin)
        .await?;
        Ok(Meter { wal, transactions })
    }

    /// What has been written and committed since.
    pub(crate) async fn cost(&self, name: &str, since: Meter) -> anyhow::Result<Cost> {
        let now = self.meter(name).await?;
        Ok(Cost {
            wal: now.wal - since.wal,
            transactions: now.transactions - since.transactions,
        })
    }

    /// Transactions of a database so far, also while sessions run.
    pub(crate) async fn transactions(&self, name: &str) -> anyhow::Result<f64> {
        let count: i64 = query_scalar(
            "select (xact_commit + xact_rollback)::bigint from pg_stat_database where datname = $1",
        )
        .bind(name)
        .fetch_one(&self.admin)
        .await?;
        #[expect(clippy::cast_precision_loss, reason = "a count far below 2^52")]
        Ok(count as f64)
    }

    /// Waits until nobody is connected to a database, ten seconds at the most.
    async fn alone(&self, name: &str) -> anyhow::Result<()> {
        for _ in 0..500 {
            let there: bool = query_scalar(
                "select exists (select from pg_stat_activity
                                where datname = $1 and backend_type = 'client backend')",
            )
            .bind(name)
            .fetch_one(&self.admin)
            .await?;
            if !there {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Runs a statement whose names cannot be parameters.
    async fn say(&self, sql: String) -> anyhow::Result<()> {
        // A few hundred short texts a run; statements are made from texts that live for ever.
        query(Box::leak(sql.into_boxed_str()))
            .execute(&self.admin)
            .await?;
        Ok(())
    }

    /// Stops the server and removes it.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.admin.close().await;
        self.cluster.stop(Shutdown::Fast).await?;
        Ok(())
    }
}

/// The same address with another database.
fn in_database(url: &str, name: &str) -> String {
    let (head, query) = url.split_once('?').unwrap_or((url, ""));
    let server = head.rsplit_once('/').map_or(head, |(server, _)| server);
    format!("{server}/{name}?{query}")
}

/// A transaction that holds a snapshot: nothing that dies from now on can be removed.
pub(crate) struct Snapshot {
    pool: PgPool,
    _held: sqlx::Transaction<'static, sqlx::Postgres>,
}

impl Snapshot {
    /// Takes it.
    pub(crate) async fn take(url: &str) -> anyhow::Result<Self> {
        let pool = database::pool(&DatabaseSettings::new(url), "bench-snapshot")?;
        let mut held = pool.begin().await?;
        query("set transaction isolation level repeatable read")
            .execute(&mut *held)
            .await?;
        query("select count(*) from pg_class")
            .execute(&mut *held)
            .await?;
        Ok(Self { pool, _held: held })
    }

    /// Lets it go.
    pub(crate) async fn release(self) {
        drop(self._held);
        self.pool.close().await;
    }
}

/// Vacuums a database and tells the planner about it, as autovacuum would have in time.
pub(crate) async fn vacuum(url: &str) -> anyhow::Result<()> {
    let pool = database::pool(&DatabaseSettings::new(url), "bench-vacuum")?;
    query("vacuum analyze").execute(&pool).await?;
    pool.close().await;
    Ok(())
}
