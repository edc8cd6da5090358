//! The private PostgreSQL server that all contenders share, one after another.
//!
//! Provides a fresh database for every measurement, copied from a template, and what a measurement cost
//! the server. Every contender gets the same settings.

use std::path::Path;
use std::time::Duration;

use harkara_postgres::{Cluster, Options, Shutdown, obtain, report_to_stderr};
use harkara_shared::database::{self, DatabaseSettings, query, query_as, query_scalar};
use sqlx::PgPool;

/// The server's settings, the same for every contender. Durability is on throughout; the rest is usual for
/// a machine with a few gigabytes to spare.
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

/// The template database that holds Harkara's schema.
pub(crate) const OURS: &str = "harkara";

/// The running server.
pub(crate) struct Arena {
    cluster: Cluster,
    admin: PgPool,
}

/// What the server had written and committed at some point.
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
    /// Transactions, including those that only read.
    pub(crate) transactions: f64,
}

impl Arena {
    /// Starts the server in `directory` and creates Harkara's schema in it.
    pub(crate) async fn start(directory: &Path) -> anyhow::Result<Self> {
        let settings = SETTINGS
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let cluster = Cluster::start(Options {
            settings,
            ephemeral: true,
            ..Options::new(directory, obtain(None, report_to_stderr).await?)
        })
        .await?;
        let url = in_database(&cluster.superuser_url(), "postgres");
        let admin = database::pool(&DatabaseSettings::new(url), "bench-admin")?;
        let arena = Self { cluster, admin };
        let pool = database::pool(&DatabaseSettings::new(arena.cluster.url()), "bench")?;
        database::migrate(&pool).await?;
        pool.close().await;
        arena.wait_until_unused(OURS).await?;
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

    /// The address of a database, for a peer, as its superuser.
    pub(crate) fn peer_url(&self, name: &str) -> String {
        in_database(&self.cluster.superuser_url(), name)
    }

    /// Recreates the database `name` as a copy of `template`, then runs a checkpoint.
    pub(crate) async fn fresh(&self, template: &str, name: &str) -> anyhow::Result<()> {
        self.drop(name).await?;
        let owner = if template == OURS {
            "harkara"
        } else {
            "postgres"
        };
        self.execute(format!(
            "create database {name} template {template} owner {owner}"
        ))
        .await?;
        self.execute("checkpoint".to_owned()).await
    }

    /// Drops a database, together with its connections.
    pub(crate) async fn drop(&self, name: &str) -> anyhow::Result<()> {
        self.execute(format!("drop database if exists {name} with (force)"))
            .await
    }

    /// What has been written and committed so far. Waits for the sessions of the database to end, because
    /// running ones report their counts late.
    pub(crate) async fn meter(&self, name: &str) -> anyhow::Result<Meter> {
        self.wait_until_unused(name).await?;
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

    /// What has been written and committed since `since`.
    pub(crate) async fn cost(&self, name: &str, since: Meter) -> anyhow::Result<Cost> {
        let now = self.meter(name).await?;
        Ok(Cost {
            wal: now.wal - since.wal,
            transactions: now.transactions - since.transactions,
        })
    }

    /// Transactions of a database so far, reported while sessions run.
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

    /// Waits until a database has no connections, for at most ten seconds.
    async fn wait_until_unused(&self, name: &str) -> anyhow::Result<()> {
        for _ in 0..500 {
            let is_used: bool = query_scalar(
                "select exists (select from pg_stat_activity
                                where datname = $1 and backend_type = 'client backend')",
            )
            .bind(name)
            .fetch_one(&self.admin)
            .await?;
            if !is_used {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Runs a statement with names, which cannot be parameters.
    async fn execute(&self, sql: String) -> anyhow::Result<()> {
        // Statements must be static texts; a run leaks a few hundred short ones.
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

/// The address of another database on the same server.
fn in_database(url: &str, name: &str) -> String {
    let (head, query) = url.split_once('?').unwrap_or((url, ""));
    let server = head.rsplit_once('/').map_or(head, |(server, _)| server);
    format!("{server}/{name}?{query}")
}

/// A transaction that holds a snapshot: no row version that dies from now on can be removed.
pub(crate) struct Snapshot {
    pool: PgPool,
    _held: sqlx::Transaction<'static, sqlx::Postgres>,
}

impl Snapshot {
    /// Opens the transaction and takes its snapshot.
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

    /// Ends the transaction.
    pub(crate) async fn release(self) {
        drop(self._held);
        self.pool.close().await;
    }
}

/// Vacuums and analyzes a database, as autovacuum would in time.
pub(crate) async fn vacuum(url: &str) -> anyhow::Result<()> {
    let pool = database::pool(&DatabaseSettings::new(url), "bench-vacuum")?;
    query("vacuum analyze").execute(&pool).await?;
    pool.close().await;
    Ok(())
}
