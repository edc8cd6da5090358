//! Connects to PostgreSQL.
//!
//! Takes connection settings and returns pools, tenant transactions and the state of the schema. Knows no table of
//! jobs or resources, and lets no statement of a tenant run outside of a [`TenantTx`].

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

/// A connection that was used more recently than this is not pinged before its next use.
const PING_AFTER_IDLE: Duration = Duration::from_millis(500);

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database URL cannot be parsed.
    #[error("DATABASE_URL is not a PostgreSQL address: {0}")]
    Url(sqlx::Error),
    /// The database was not reachable for the whole waiting time.
    #[error("the database at {address} was not reachable for {} s: {source}", waited.as_secs())]
    Unreachable {
        /// Host and port.
        address: String,
        /// Time spent trying.
        waited: Duration,
        /// The last failure.
        source: sqlx::Error,
    },
    /// The database answers and refuses the connection.
    #[error("the database at {address} refuses the connection: {source}")]
    Refused {
        /// Host and port.
        address: String,
        /// The database's answer.
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

/// A `postgres://…` address, which can hold a password: it has no `Display`, and `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The address as it was configured.
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

/// How a process connects to its database.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// Address of the database.
    pub url: DatabaseUrl,
    /// Maximum number of connections of this process.
    pub max_connections: u32,
    /// How long a caller waits for a free connection before it gets an error.
    pub acquire_timeout: Duration,
    /// Whether prepared statements are kept on their connection. Off behind PgBouncer in transaction mode.
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

/// Whether statements are named and kept. One switch a process, because a process uses one database.
static KEEP_STATEMENTS: AtomicBool = AtomicBool::new(true);

/// A statement, kept prepared unless the process runs without a statement cache. All SQL of Harkara is created by this
/// function, [`query_as`] and [`query_scalar`].
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

/// A pool that connects when it is first used. `application` is the name that the server shows for the process.
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
        // A connection that was used a moment ago is not pinged: that would double the round trips of a busy process.
        .test_before_acquire(false)
        .before_acquire(|connection, usage| {
            Box::pin(async move {
                if usage.idle_for > PING_AFTER_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options))
}

/// Waits until the database answers, at most `timeout`, and logs once that it waits.
///
/// # Errors
/// [`Error::Unreachable`] with the last failure when the time is over, [`Error::Refused`] at once when waiting cannot
/// help, such as for a wrong password.
pub async fn wait_until_reachable(pool: &PgPool, timeout: Duration) -> Result<(), Error> {
    let started = tokio::time::Instant::now();
    let options = pool.connect_options();
    let address = format!("{}:{}", options.get_host(), options.get_port());
    let mut is_logged = false;
    loop {
        // Not through the pool, which reports a refused connection only as a timeout.
        let attempt = async {
            let mut connection = options.connect().await?;
            connection.ping().await?;
            connection.close().await
        };
        let failure = match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(failure)) => failure,
            Err(_) => sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
        };
        if !is_unavailable(&failure) {
            return Err(Error::Refused {
                address,
                source: failure,
            });
        }
        if started.elapsed() >= timeout {
            return Err(Error::Unreachable {
                address,
                waited: started.elapsed(),
                source: failure,
            });
        }
        if !is_logged {
            is_logged = true;
            tracing::warn!(
                error = %failure,
                address,
                timeout_secs = timeout.as_secs(),
                "the database is not reachable; waiting for it"
            );
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Maximum duration of one attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Checks that the schema is at least the one this release was built with and permits this release.
///
/// # Errors
/// [`Error::Schema`] when it does not, [`Error::Sqlx`] when it cannot be read.
pub async fn check_schema(pool: &PgPool) -> Result<(), Error> {
    Schema::embedded().check(pool).await
}

/// How long [`close`] waits for connections that are in use.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Closes a pool, without waiting for a connection that is not returned.
pub async fn close(pool: &PgPool) {
    if tokio::time::timeout(CLOSE_TIMEOUT, pool.close())
        .await
        .is_err()
    {
        tracing::warn!("a connection was not returned in time; the server will close it");
    }
}

/// Whether the database is unavailable now (down, starting, out of connections, connection lost) rather than the
/// statement wrong. Such work can be tried again.
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
            // Connection exceptions; out of connections, disk or memory; interventions of an operator and timeouts of the
            // server (shutdown, start-up, statement, lock and idle); a read-only standby.
            code.starts_with("08")
                || code.starts_with("53")
                || code.starts_with("57")
                || matches!(code.as_ref(), "55P03" | "25P03" | "25006")
        }),
        _ => false,
    }
}

/// Whether PostgreSQL rolled the transaction back only because of concurrent ones (deadlock, serialization), so that the
/// same work can succeed at once.
#[must_use]
pub fn is_conflict(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error)
        if matches!(error.code().as_deref(), Some("40001" | "40P01")))
}

/// Maximum duration of a statement in a tenant's transaction, in milliseconds: less than the timeout of an API request, so
/// that no statement continues for a caller that has its answer already.
const TENANT_STATEMENT_MS: &str = "25000";

/// A transaction that reads and writes one tenant's rows only: it runs as the role `harkara_app` with `app.tenant_id` set,
/// both until its end, so that row-level security applies whatever role the connection logged in as. Dropped without
/// [`TenantTx::commit`], it is rolled back.
#[derive(Debug)]
pub struct TenantTx {
    tx: Transaction<'static, Postgres>,
    tenant: TenantId,
}

impl TenantTx {
    /// Begins a transaction for `tenant`.
    ///
    /// # Errors
    /// When no connection is available or the database refuses.
    pub async fn begin(pool: &PgPool, tenant: TenantId) -> Result<Self, sqlx::Error> {
        Self::narrow(pool.begin().await?, tenant).await
    }

    /// Begins a read-only transaction for `tenant` that sees one snapshot until its end.
    ///
    /// # Errors
    /// When no connection is available or the database refuses.
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

    /// Commits the transaction.
    ///
    /// # Errors
    /// When the database cannot confirm the commit; whether it happened is then unknown.
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
            // Nothing listens on port 1.
            ..DatabaseSettings::new("postgres://someone:secret@127.0.0.1:1/nowhere")
        };
        pool(&settings, "test").unwrap()
    }

    #[tokio::test]
    async fn unreachable_database_is_reported_in_one_line() {
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
    async fn unavailable_database_is_distinguished_from_an_invalid_statement() {
        let error = query("select 1").execute(&unreachable()).await.unwrap_err();
        assert!(is_unavailable(&error), "{error}");
        assert!(!is_unavailable(&sqlx::Error::RowNotFound));
        assert!(!is_conflict(&error));
    }
}
