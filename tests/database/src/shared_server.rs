//! Room: living with others on the server of `DATABASE_URL`.
//! Takes: its URL. Gives: a [`Run`]: names of our own, and the removal of what dead runs left.
//! Never: drops a database of a run that lives, or one that no run made.

#![expect(
    clippy::disallowed_types,
    reason = "a database's name cannot be a parameter, and all names here are our own"
)]

use std::hash::{BuildHasher, RandomState};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use url::Url;

use crate::options;

/// The first key of the advisory locks by which runs show that they live ("hark").
const LOCKS: i32 = 0x6861_726b;

/// One test process on a server that others use too.
///
/// Its life is shown by an advisory lock, which the server releases when we are gone, however we
/// went. Advisory locks belong to a database, so the names carry the database's id: runs that come
/// by different databases of one server never judge each other.
#[derive(Debug)]
pub(crate) struct Run {
    prefix: String,
    _alive: PgConnection,
}

impl Run {
    /// Begins a run and starts to sweep up after dead ones.
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
            .expect("a sign of life");
        let sweeper = connect(url).await;
        let prefix = format!("{family}{id:08x}_");
        // In the background, and not to the end if the tests are quicker: the next run goes on.
        tokio::spawn(sweep(sweeper, family));
        Self {
            prefix,
            _alive: alive,
        }
    }

    /// What the names of this run's databases begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// Drops the databases of runs that are dead.
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
        // Held while dropping, so that two sweepers do not meet.
        let dead: bool = connection
            .fetch_one(AssertSqlSafe(locking("pg_try_advisory_lock", id)))
            .await
            .expect("an answer about a run")
            .get(0);
        if dead {
            let drop = format!("drop database if exists {name} with (force)");
            // One that another user's run left is not ours to drop.
            let _ = connection.execute(AssertSqlSafe(drop)).await;
            connection
                .execute(AssertSqlSafe(locking("pg_advisory_unlock", id)))
                .await
                .expect("the lock back");
        }
    }
}

/// The run that made a database of this family; none for a name that no run would give.
fn run_of(name: &str, family: &str) -> Option<u32> {
    let (id, _) = name.strip_prefix(family)?.split_once('_')?;
    u32::from_str_radix(id, 16).ok().filter(|_| id.len() == 8)
}

/// A call of a function on the advisory lock of a run.
fn locking(function: &str, id: u32) -> String {
    format!("select {function}({LOCKS}, {})", id.cast_signed())
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
