//! Test databases are fresh, separate, and removed afterwards.

#![expect(clippy::unwrap_used, reason = "a test should stop at the first error")]

mod ending;
mod function_rights;
mod migrations;

use std::time::{Duration, Instant};

use harkara_test_database::{OwnCluster, TestDatabase};
use sqlx::{Connection, Executor, PgConnection, PgPool, Row};

async fn number(url: &str, sql: &'static str) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    connection.fetch_one(sql).await.unwrap().get(0)
}

async fn mark(pool: &PgPool) {
    pool.execute("create table if not exists marks (); insert into marks default values")
        .await
        .unwrap();
}

/// Polls until `condition` holds; fails the test after a timeout.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn test_database_is_migrated_empty_and_separate() {
    let (first, second) = tokio::join!(TestDatabase::create(), TestDatabase::create());
    assert_ne!(first.name(), second.name());
    mark(&first.pool()).await;
    let marks = "select count(*) from pg_class where relname = 'marks'";
    assert_eq!(number(&first.url(), marks).await, 1);
    assert_eq!(number(&second.url(), marks).await, 0);
    let migrations = "select count(*) from _sqlx_migrations where success";
    assert!(number(&first.superuser_url(), migrations).await > 0);
}

#[tokio::test]
async fn pool_role_owns_the_database_and_bypasses_no_policy() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let row = pool
        .fetch_one(
            "select pg_get_userbyid(datdba) = current_user, rolsuper or rolbypassrls \
             from pg_database, pg_roles \
             where datname = current_database() and rolname = current_user",
        )
        .await
        .unwrap();
    assert!(row.get::<bool, _>(0));
    // The user of `DATABASE_URL` can be a superuser.
    assert!(std::env::var_os("DATABASE_URL").is_some() || !row.get::<bool, _>(1));
}

#[test]
fn every_test_can_use_its_own_runtime() {
    let tests: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    for _ in 0..3 {
                        let database = TestDatabase::create().await;
                        mark(&database.pool()).await;
                    }
                });
            })
        })
        .collect();
    for test in tests {
        test.join().unwrap();
    }
}

#[tokio::test]
async fn dropped_database_is_removed_despite_open_connections() {
    let witness = TestDatabase::create().await;
    let database = TestDatabase::create().await;
    let name = database.name().to_owned();
    let mut session = PgConnection::connect(&database.url()).await.unwrap();
    session.execute("select").await.unwrap();
    drop(database);
    let pool = witness.pool();
    until("the database is gone", async || {
        let names = pool.fetch_all("select datname::text from pg_database");
        !names
            .await
            .unwrap()
            .iter()
            .any(|row| row.get::<&str, _>(0) == name)
    })
    .await;
}

#[tokio::test]
async fn own_cluster_survives_a_crash() {
    let mut cluster = OwnCluster::start().await;
    let url = cluster.url();
    for expected in 1..=2 {
        let pool = cluster.pool();
        mark(&pool).await;
        cluster.stop_immediate().await;
        assert!(PgConnection::connect(&url).await.is_err());
        cluster.start_again().await;
        assert_eq!(cluster.url(), url);
        assert_eq!(number(&url, "select count(*) from marks").await, expected);
        pool.close().await;
    }
    let durable = "select count(*) from pg_settings \
                   where name in ('fsync', 'full_page_writes', 'synchronous_commit') \
                     and setting = 'on'";
    assert_eq!(number(&url, durable).await, 3);
    let migrations = "select count(*) from _sqlx_migrations where success";
    assert!(number(&url, migrations).await > 0);
}
