//! Shares the server of `DATABASE_URL` with other test runs and applications.
//! A [`Run`] gives this process its own database names, and removes databases that dead runs left.
//! It never drops a database of a live run, or one that no run created.

#![expect(
    clippy::disallowed_types,
    reason = "a database name cannot be a bind parameter, and all names are generated here"
)]

use std::hash::{BuildHasher, RandomState};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use url::Url;

use crate::options;

/// The first key of the advisory locks that mark live runs ("hark" in ASCII).
const RUN_LOCK_CLASS: i32 = 0x6861_726b;

/// One test process on a shared server.
///
/// An advisory lock marks it as live; the server releases the lock when the process ends in any
/// way. Advisory locks belong to a database, so names include the database's id: runs that connect
/// through different databases of a server never consider each other dead.
#[derive(Debug)]
pub(crate) struct Run {
    prefix: String,
    _alive: PgConnection,
}

impl Run {
    /// Begins a run and starts removing databases of dead runs.
    pub(crate) async fn begin(url: &Url) -> Self {
        let mut alive = connect(url).await;
        let family: String = alive
            .fetch_one(
                "select format('harkara_test_%s_', oid) from pg_database \
                 where datname = current_database()",
            )
            .await
            .expect("the name of the database")
            .get(0);
        let [a, b, c, d, ..] = RandomState::new()
            .hash_one(std::process::id())
            .to_le_bytes();
        let id = u32::from_le_bytes([a, b, c, d]);
        alive
            .execute(AssertSqlSafe(locking("pg_advisory_lock", id)))
            .await
            .expect("the lock of a live run");
        let sweeper = connect(url).await;
        let prefix = format!("{family}{id:08x}_");
        // In the background, and incomplete if the tests finish first: the next run continues.
        tokio::spawn(sweep(sweeper, family));
        Self {
            prefix,
            _alive: alive,
        }
    }

    /// The prefix of this run's database names.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// Drops the databases of dead runs.
async fn sweep(mut connection: PgConnection, family: String) {
    let all = connection
        .fetch_all("select datname::text from pg_database where datname like 'harkara\\_test\\_%'")
        .await
        .expect("a list of databases");
    for row in all {
        let name: String = row.get(0);
        let Some(id) = run_of(&name, &family) else {
            continue;
        };
        // Held while dropping, so that two sweepers do not conflict.
        let dead: bool = connection
            .fetch_one(AssertSqlSafe(locking("pg_try_advisory_lock", id)))
            .await
            .expect("the state of a run")
            .get(0);
        if dead {
            let drop = format!("drop database if exists {name} with (force)");
            // Databases of another user's runs cannot be dropped.
            let _ = connection.execute(AssertSqlSafe(drop)).await;
            connection
                .execute(AssertSqlSafe(locking("pg_advisory_unlock", id)))
                .await
                .expect("a released lock");
        }
    }
}

/// The id of the run that created a database of this family, or `None` for other names.
fn run_of(name: &str, family: &str) -> Option<u32> {
    let (id, _) = name.strip_prefix(family)?.split_once('_')?;
    u32::from_str_radix(id, 16).ok().filter(|_| id.len() == 8)
}

/// A call of an advisory-lock function for a run.
fn locking(function: &str, id: u32) -> String {
    format!("select {function}({RUN_LOCK_CLASS}, {})", id.cast_signed())
}

async fn connect(url: &Url) -> PgConnection {
    PgConnection::connect_with(&options(url))
        .await
        .expect("a connection to DATABASE_URL")
}

#[cfg(test)]
mod tests {
    use super::run_of;

    #[test]
    fn run_id_is_parsed_only_from_names_of_its_family() {
        let family = "harkara_test_5_";
        assert_eq!(run_of("harkara_test_5_0000002a_template", family), Some(42));
        assert_eq!(run_of("harkara_test_5_0000002a_7", family), Some(42));
        for stranger in [
            "harkara_test_55_0000002a_7",
            "harkara_test_5_2a_7",
            "harkara_test_5_0000002a",
            "harkara_test_5_mine_7",
            "harkara",
        ] {
            assert_eq!(run_of(stranger, family), None, "{stranger}");
        }
    }
}
