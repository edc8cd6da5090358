//! Room: the door to Postgres.
//! Takes: connection settings. Gives: pools, migrations, the schema's version, tenant transactions.
//! Never: knows a table of jobs or resources; never lets a tenant's statement run outside a
//! [`TenantTx`].

mod migrate;
pub mod schema;

use std::ops::{Deref, DerefMut};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::query::{Query, QueryAs, QueryScalar};
use sqlx::{ConnectOptions, Connection, FromRow, PgConnection, PgPool, Postgres, Transaction};

use crate::id::TenantId;

pub use migrate::migrate;
pub use schema::{Schema, SchemaError};

/// How long a connection may have been idle and still be taken for granted.
const TRUSTED: Duration = Duration::from_millis(500);

/// What can go wrong at this door.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database URL cannot be parsed.
    #[error("DATABASE_URL is not a PostgreSQL address: {0}")]
    Url(sqlx::Error),
    /// The database was not reachable for the whole waiting time.
    #[error("the database at {place} was not reachable for {} s: {source}", waited.as_secs())]
    Unreachable {
        /// Host and port.
        place: String,
        /// How long it was tried.
        waited: Duration,
        /// The last refusal.
        source: sqlx::Error,
    },
    /// The database is there and lets us not in.
    #[error("the database at {place} refuses: {source}")]
    Refused {
        /// Host and port.
        place: String,
        /// What it says.
        source: sqlx::Error,
    },
    /// A migration failed; the database is as it was before it.
    #[error("migration failed: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A function could not be installed; none was.
    #[error("function {name} could not be installed: {source}")]
    Function {
        /// Schema and name.
        name: String,
        /// The database's answer.
        source: sqlx::Error,
    },
    /// The schema is not one that this release can run on.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// Any other database error.
    #[error(transparent)]
    Sqlx(#[from] sqlx::Error),
}

/// A `postgres://…` address, which may hold a password: it has no `Display`, and `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The address as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for DatabaseUrl {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabaseUrl(redacted)")
    }
}

/// How a process talks to its database.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// Where it is.
    pub url: DatabaseUrl,
    /// Most connections this process opens.
    pub max_connections: u32,
    /// How long a caller waits for a free connection before it is told that there is none.
    pub acquire_timeout: Duration,
    /// Keep prepared statements on their connection. Off behind PgBouncer in transaction mode.
    pub statement_cache: bool,
}

impl DatabaseSettings {
    /// Settings with the defaults every process shares: 20 connections, 3 s, statements cached.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: DatabaseUrl(url.into()),
            max_connections: 20,
            acquire_timeout: Duration::from_secs(3),
            statement_cache: true,
        }
    }
}

/// Whether statements made by this module are named and kept. One switch a process, because a
/// process talks to one database.
static KEEP_STATEMENTS: AtomicBool = AtomicBool::new(true);

/// A statement, kept prepared unless the process runs without a statement cache. All SQL of Harkara
/// is made by this and its two sisters.
pub fn query(sql: &'static str) -> Query<'static, Postgres, PgArguments> {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the wrapper the lint points to"
    )]
    sqlx::query(sql).persistent(KEEP_STATEMENTS.load(Ordering::Relaxed))
}

/// As [`query`], with rows decoded into `T`.
pub fn query_as<T>(sql: &'static str) -> QueryAs<'static, Postgres, T, PgArguments>
where
    T: for<'r> FromRow<'r, PgRow>,
{
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the wrapper the lint points to"
    )]
    sqlx::query_as(sql).persistent(KEEP_STATEMENTS.load(Ordering::Relaxed))
}

/// As [`query`], with the first column of each row decoded into `T`.
pub fn query_scalar<T>(sql: &'static str) -> QueryScalar<'static, Postgres, T, PgArguments>
where
    (T,): for<'r> FromRow<'r, PgRow>,
{
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the wrapper the lint points to"
    )]
    sqlx::query_scalar(sql).persistent(KEEP_STATEMENTS.load(Ordering::Relaxed))
}

/// A pool that connects when it is first used. `application` names the process to the server.
///
/// # Errors
/// [`Error::Url`] when the address cannot be parsed.
pub fn pool(settings: &DatabaseSettings, application: &str) -> Result<PgPool, Error> {
    KEEP_STATEMENTS.store(settings.statement_cache, Ordering::Relaxed);
    let mut options = PgConnectOptions::from_str(settings.url.as_str())
        .map_err(Error::Url)?
        .application_name(application);
    if !settings.statement_cache {
        options = options.statement_cache_capacity(0);
    }
    Ok(PgPoolOptions::new()
        .max_connections(settings.max_connections)
        .acquire_timeout(settings.acquire_timeout)
        // A connection that was at work a moment ago is not asked whether it is still there: that
        // would double the round trips of a busy process.
        .test_before_acquire(false)
        .before_acquire(|connection, usage| {
            Box::pin(async move {
                if usage.idle_for > TRUSTED {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options))
}

/// Waits until the database answers, at most `patience`, saying once that it waits.
///
/// # Errors
/// [`Error::Unreachable`] with the last refusal when the time is over, [`Error::Refused`] at once when
/// waiting is in vain: a wrong password, say.
pub async fn wait_until_reachable(pool: &PgPool, patience: Duration) -> Result<(), Error> {
    let started = tokio::time::Instant::now();
    let options = pool.connect_options();
    let place = format!("{}:{}", options.get_host(), options.get_port());
    let mut said = false;
    loop {
        // Not through the pool, which says of a refused connection only that it waited for one.
        let attempt = async {
            let mut connection = options.connect().await?;
            connection.ping().await?;
            connection.close().await
        };
        let refusal = match tokio::time::timeout(ATTEMPT, attempt).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(refusal)) => refusal,
            Err(_) => sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
        };
        if !is_unavailable(&refusal) {
            return Err(Error::Refused {
                place,
                source: refusal,
            });
        }
        if started.elapsed() >= patience {
            return Err(Error::Unreachable {
                place,
                waited: started.elapsed(),
                source: refusal,
            });
        }
        if !said {
            said = true;
            tracing::warn!(
                error = %refusal,
                "the database at {place} is not reachable: waiting up to {} s",
                patience.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Longest that one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Checks that the schema is at least the one this release was built with and permits this release.
///
/// # Errors
/// [`Error::Schema`] when it does not, [`Error::Sqlx`] when it cannot be read.
pub async fn check_schema(pool: &PgPool) -> Result<(), Error> {
    Schema::embedded().check(pool).await
}

/// Closes a pool for good, without waiting for a connection that does not come back.
pub async fn close(pool: &PgPool) {
    let patience = Duration::from_secs(2);
    if tokio::time::timeout(patience, pool.close()).await.is_err() {
        tracing::warn!("a connection is left to the server to close");
    }
}

/// Whether the error says that the database cannot be had now (down, starting, out of connections,
/// connection lost) rather than that the statement is wrong. Such work is worth trying again.
#[must_use]
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // Connection exceptions; out of connections, disk or memory; all that an operator or a
            // time limit of the server cuts off (shutdown, start-up, statement, lock and idle
            // timeouts); a server that is a read-only standby.
            code.starts_with("08")
                || code.starts_with("53")
                || code.starts_with("57")
                || matches!(code.as_ref(), "55P03" | "25P03" | "25006")
        }),
        _ => false,
    }
}

/// Whether Postgres undid the transaction only because of its neighbours (deadlock, serialization),
/// so that the same work may succeed at once.
#[must_use]
pub fn is_conflict(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error)
        if matches!(error.code().as_deref(), Some("40001" | "40P01")))
}

/// Longest statement of a tenant's transaction, in milliseconds: less than the API gives a request, so
/// that no statement goes on for a caller who has been answered already.
const TENANT_STATEMENT_MS: &str = "25000";

/// A transaction that sees and touches one tenant's rows only: it runs as the role `harkara_app`
/// with `app.tenant_id` set, both until its end, so that row-level security holds it whoever the
/// connection logged in as. Dropped without [`TenantTx::commit`], it is rolled back.
#[derive(Debug)]
pub struct TenantTx {
    tx: Transaction<'static, Postgres>,
    tenant: TenantId,
}

impl TenantTx {
    /// Begins a transaction for `tenant`.
    ///
    /// # Errors
    /// When no connection can be had or the database refuses.
    pub async fn begin(pool: &PgPool, tenant: TenantId) -> Result<Self, sqlx::Error> {
        Self::narrow(pool.begin().await?, tenant).await
    }

    /// Begins a transaction for `tenant` that only reads, and sees everything as it is at this moment until
    /// its end.
    ///
    /// # Errors
    /// When no connection can be had or the database refuses.
    pub async fn snapshot(pool: &PgPool, tenant: TenantId) -> Result<Self, sqlx::Error> {
        let tx = pool
            .begin_with("begin isolation level repeatable read, read only")
            .await?;
        Self::narrow(tx, tenant).await
    }

    async fn narrow(
        mut tx: Transaction<'static, Postgres>,
        tenant: TenantId,
    ) -> Result<Self, sqlx::Error> {
        query(
            "select set_config('role', 'harkara_app', true), set_config('app.tenant_id', $1, true),
             set_config('jit', 'off', true), set_config('statement_timeout', $2, true)",
        )
        .bind(tenant.as_uuid().to_string())
        .bind(TENANT_STATEMENT_MS)
        .execute(&mut *tx)
        .await?;
        Ok(Self { tx, tenant })
    }

    /// The tenant whose rows this transaction sees.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Makes the transaction's writes durable.
    ///
    /// # Errors
    /// When the database cannot confirm it; whether it happened is then unknown.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.tx.commit().await
    }
}

impl Deref for TenantTx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.tx
    }
}

impl DerefMut for TenantTx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable() -> PgPool {
        let settings = DatabaseSettings {
            acquire_timeout: Duration::from_millis(50),
            // Port 1 of this machine: nobody listens there.
            ..DatabaseSettings::new("postgres://someone:secret@127.0.0.1:1/nowhere")
        };
        pool(&settings, "test").unwrap()
    }

    #[tokio::test]
    async fn a_database_that_does_not_come_is_told_in_one_clear_line() {
        let error = wait_until_reachable(&unreachable(), Duration::from_millis(120))
            .await
            .unwrap_err();
        let line = error.to_string();
        assert!(
            line.starts_with("the database at 127.0.0.1:1 was not reachable for"),
            "{line}"
        );
        assert!(!line.contains('\n') && !line.contains("secret"), "{line}");
    }

    #[tokio::test]
    async fn a_database_that_is_away_is_told_from_a_statement_that_is_wrong() {
        let error = query("select 1").execute(&unreachable()).await.unwrap_err();
        assert!(is_unavailable(&error), "{error}");
        assert!(!is_unavailable(&sqlx::Error::RowNotFound));
        assert!(!is_conflict(&error));
    }
}
