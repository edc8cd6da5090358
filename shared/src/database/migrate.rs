//! Brings a database to the schema of this release.
//!
//! Takes a pool's connection options and opens one connection of its own, which must not go through PgBouncer: it
//! holds an advisory lock of the session. Runs the versioned migrations that are missing, each in a transaction
//! together with what it declares, then installs the functions that changed, all in one transaction. Whatever step
//! is interrupted, the next call completes the work; until then [`Schema::check`] refuses the database.

use std::time::Duration;

use semver::Version;
#[expect(
    clippy::disallowed_types,
    reason = "names of indexes and functions are no parameters; the catalogue quotes them"
)]
use sqlx::AssertSqlSafe;
use sqlx::migrate::{Migrate, MigrateError, Migration};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, PgPool};

use super::schema::{
    HAS_PRE_RELEASE_TABLES, Schema, SchemaError, State, is_undefined_table, oldest_release,
    read_state,
};
use super::{Error, query, query_as, query_scalar};

/// Key of the advisory lock that one migrating process holds: "harkara" in ASCII.
const LOCK_KEY: i64 = 0x68_61_72_6b_61_72_61;

/// Pause between two tries to take the lock.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// A migration that waits longer than this for a lock on a table is rolled back and tried again, because every later
/// statement on that table queues behind it.
const LOCK_TIMEOUT: &str = "set lock_timeout = '3s'";

/// How often a migration that found its tables locked is tried, and how long it waits in between.
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Where sqlx records applied migrations.
const TABLE: &str = "_sqlx_migrations";

/// Migrates the database of `pool` to the schema of this release. Several processes can call it at once.
///
/// # Errors
/// When the database is unreachable, a migration fails, or the database belongs to a newer release that does not
/// permit this one, or to a pre-release schema.
pub async fn migrate(pool: &PgPool) -> Result<(), Error> {
    Schema::embedded().migrate(pool).await
}

impl Schema {
    /// As [`migrate`], with this schema.
    ///
    /// # Errors
    /// See [`migrate`].
    pub async fn migrate(&self, pool: &PgPool) -> Result<(), Error> {
        let mut connection = pool.connect_options().connect().await?;
        // Defaults of the role or the database could end a long migration.
        connection
            .execute("set statement_timeout = 0; set idle_in_transaction_session_timeout = 0")
            .await?;
        lock(&mut connection).await?;
        let migrated = self.migrate_locked(&mut connection).await;
        // Closing the session releases the lock.
        let closed = connection.close().await;
        migrated?;
        Ok(closed?)
    }

    async fn migrate_locked(&self, connection: &mut PgConnection) -> Result<(), Error> {
        connection.ensure_migrations_table(TABLE).await?;
        let applied = connection.list_applied_migrations(TABLE).await?;
        if let Some(state) = current_state(connection).await? {
            self.permits(&state)?;
        }
        let newest = self.version();
        let mut is_schema_newer = false;
        for done in &applied {
            match self
                .migrations
                .iter()
                .find(|known| known.version == done.version)
            {
                Some(known) if known.checksum == done.checksum => {}
                Some(_) => return Err(MigrateError::VersionMismatch(done.version).into()),
                None if done.version > newest => {
                    is_schema_newer = true;
                    tracing::info!(
                        version = done.version,
                        "the schema is newer than this release and permits it"
                    );
                }
                None => return Err(MigrateError::VersionMissing(done.version).into()),
            }
        }
        let mut oldest = Version::new(0, 0, 0);
        // On a newer schema only functions can be missing, if its own `migrate` was interrupted.
        let migrations = self.migrations.iter().filter(|_| !is_schema_newer);
        for migration in migrations {
            oldest = oldest.max(oldest_release(migration)?);
            if !applied.iter().any(|done| done.version == migration.version) {
                apply_with_retries(connection, migration, &oldest).await?;
                tracing::info!(
                    version = migration.version,
                    description = %migration.description,
                    "migration applied"
                );
            }
        }
        let mut attempt = 1;
        loop {
            match self.install_functions(connection).await {
                Err(failure) if attempt < LOCK_ATTEMPTS && is_lock_timeout(&failure) => {
                    tracing::warn!(
                        attempt,
                        "a table of a trigger is locked by another transaction; trying again"
                    );
                    attempt += 1;
                    tokio::time::sleep(LOCK_RETRY_DELAY).await;
                }
                done => return done,
            }
        }
    }

    /// Installs the functions whose text differs from the installed one, in one transaction. Functions of a newer
    /// release stay: it keeps those that older releases call.
    async fn install_functions(&self, connection: &mut PgConnection) -> Result<(), Error> {
        let state = read_state(&mut *connection)
            .await?
            .ok_or(sqlx::Error::RowNotFound)?;
        if !self.replaces_functions(&state)? {
            return Ok(());
        }
        // A function locks no table; a trigger in its file does.
        connection.execute(LOCK_TIMEOUT).await?;
        let mut tx = connection.begin().await?;
        let installed =
            query_as::<(String, String)>("select name, checksum from app.schema_functions")
                .fetch_all(&mut *tx)
                .await?;
        // Bodies are checked after all functions exist, so that the order of the files does not matter.
        tx.execute("set local check_function_bodies = off").await?;
        let mut changed = 0_usize;
        for function in &self.functions {
            let checksum = function.checksum();
            if installed
                .iter()
                .any(|(name, text)| *name == function.name && *text == checksum)
            {
                continue;
            }
            reset_rights(&mut tx, &function.name).await?;
            tx.execute(function.sql)
                .await
                .map_err(|source| Error::Function {
                    name: function.name.to_string(),
                    source,
                })?;
            query(
                "insert into app.schema_functions (name, checksum) values ($1, $2)
                 on conflict (name) do update set checksum = excluded.checksum, applied_at = now()",
            )
            .bind(&*function.name)
            .bind(checksum)
            .execute(&mut *tx)
            .await?;
            changed += 1;
        }
        tx.execute("set local check_function_bodies = on").await?;
        let names: Vec<&str> = self
            .functions
            .iter()
            .map(|function| &*function.name)
            .collect();
        for check in [CHECK_SQL_BODIES, CHECK_PLPGSQL_BODIES] {
            query(check).bind(&names).execute(&mut *tx).await?;
        }
        query("delete from app.schema_functions f where f.name <> all ($1) and to_regproc(f.name) is null")
            .bind(&names)
            .execute(&mut *tx)
            .await?;
        query(
            "update app.schema_state set functions_release = $1, functions_digest = $2,
                 functions_history = array_append(array_remove(functions_history, $2), $2)",
        )
        .bind(self.release.to_string())
        .bind(&self.digest)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        let retired = installed
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| !names.contains(&name.as_str()))
            .collect::<Vec<_>>();
        tracing::info!(changed, ?retired, "functions installed");
        Ok(())
    }
}

/// Validates the bodies of functions as PostgreSQL does when `check_function_bodies` is on. $1 names.
const CHECK_SQL_BODIES: &str = "
    select fmgr_sql_validator(p.oid)
    from pg_proc p join pg_language l on l.oid = p.prolang
    where l.lanname = 'sql' and format('%s.%s', p.pronamespace::regnamespace, p.proname) = any ($1)";

/// As [`CHECK_SQL_BODIES`], for PL/pgSQL.
const CHECK_PLPGSQL_BODIES: &str = "
    select plpgsql_validator(p.oid)
    from pg_proc p join pg_language l on l.oid = p.prolang
    where l.lanname = 'plpgsql' and format('%s.%s', p.pronamespace::regnamespace, p.proname) = any ($1)";

/// Waits until this session is the only one that migrates the database. It polls: a session that waits inside
/// PostgreSQL holds a snapshot, and `create index concurrently` of the other session would wait for that.
async fn lock(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut is_waiting = false;
    while !query_scalar::<bool>("select pg_try_advisory_lock($1)")
        .bind(LOCK_KEY)
        .fetch_one(&mut *connection)
        .await?
    {
        if !is_waiting {
            is_waiting = true;
            tracing::warn!("another process is migrating the database: waiting for it");
        }
        tokio::time::sleep(LOCK_POLL).await;
    }
    Ok(())
}

/// The schema's state, or none for an empty database.
async fn current_state(connection: &mut PgConnection) -> Result<Option<State>, Error> {
    match read_state(&mut *connection).await {
        Ok(state) => Ok(state),
        Err(error) if is_undefined_table(&error) => {
            if query_scalar::<bool>(HAS_PRE_RELEASE_TABLES)
                .fetch_one(connection)
                .await?
            {
                return Err(SchemaError::PreRelease.into());
            }
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Applies a migration, and tries again while others hold locks on its tables.
async fn apply_with_retries(
    connection: &mut PgConnection,
    migration: &Migration,
    oldest: &Version,
) -> Result<(), Error> {
    let mut attempt = 1;
    loop {
        let failure = match apply(connection, migration, oldest).await {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        if attempt == LOCK_ATTEMPTS || !is_lock_timeout(&failure) {
            return Err(failure);
        }
        tracing::warn!(
            version = migration.version,
            attempt,
            "a table of this migration is locked by another transaction; trying again"
        );
        attempt += 1;
        tokio::time::sleep(LOCK_RETRY_DELAY).await;
    }
}

async fn apply(
    connection: &mut PgConnection,
    migration: &Migration,
    oldest: &Version,
) -> Result<(), Error> {
    if migration.no_tx {
        // Waits for every transaction that is older than itself, for which there is no good limit.
        connection.execute("set lock_timeout = 0").await?;
        // Before the change: interrupted in between, the database requires too new a release, never too old a one.
        record_oldest_release(connection, oldest).await?;
        drop_invalid_indexes(connection, migration.sql.as_str()).await?;
        connection.apply(TABLE, migration).await?;
        return Ok(());
    }
    connection.execute(LOCK_TIMEOUT).await?;
    let mut tx = connection.begin().await?;
    tx.apply(TABLE, migration).await?;
    record_oldest_release(&mut tx, oldest).await?;
    Ok(tx.commit().await?)
}

/// Stores the oldest release that can run on the schema.
async fn record_oldest_release(
    connection: &mut PgConnection,
    oldest: &Version,
) -> Result<(), sqlx::Error> {
    query(
        "insert into app.schema_state (oldest_release) values ($1)
         on conflict (one) do update set oldest_release = excluded.oldest_release",
    )
    .bind(oldest.to_string())
    .execute(connection)
    .await?;
    Ok(())
}

/// Drops the indexes named in `sql` that an interrupted `create index concurrently` left behind unfinished: `if not
/// exists` would take them for finished ones. The index of a partitioned table is no such leftover: it stays invalid
/// until each partition has it.
async fn drop_invalid_indexes(connection: &mut PgConnection, sql: &str) -> Result<(), Error> {
    let names = query_scalar::<String>(
        "select i.indexrelid::regclass::text from pg_index i
         join pg_class c on c.oid = i.indexrelid
         where c.relkind = 'i' and not i.indisvalid
             and c.relnamespace in ('app'::regnamespace, 'queue'::regnamespace)
             and position(lower(c.relname) in lower($1)) > 0",
    )
    .bind(sql)
    .fetch_all(&mut *connection)
    .await?;
    for name in names {
        tracing::info!(
            index = name,
            "dropping an index that an interrupted migration left behind"
        );
        // An index cannot be a parameter; the name comes quoted from the catalogue.
        let sql = AssertSqlSafe(format!("drop index concurrently if exists {name}"));
        connection.execute(sql).await?;
    }
    Ok(())
}

/// Gives a function that exists the rights of a new one, so that a right which its file no longer grants is gone.
async fn reset_rights(connection: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    let statements = query_scalar::<String>(
        "select format(
             'grant execute on routine %1$s to public;
              revoke all on routine %1$s from harkara_app, harkara_engine, harkara_client',
             p.oid::regprocedure)
         from pg_proc p where format('%s.%s', p.pronamespace::regnamespace, p.proname) = $1",
    )
    .bind(name)
    .fetch_all(&mut *connection)
    .await?;
    for statement in statements {
        // A function cannot be a parameter; its signature comes quoted from the catalogue.
        connection.execute(AssertSqlSafe(statement)).await?;
    }
    Ok(())
}

fn is_lock_timeout(error: &Error) -> bool {
    let source = match error {
        Error::Migrate(MigrateError::ExecuteMigration(source, _))
        | Error::Function { source, .. }
        | Error::Sqlx(source) => source,
        _ => return false,
    };
    matches!(source, sqlx::Error::Database(error) if error.code().as_deref() == Some("55P03"))
}
