//! Databases for all tests of the workspace.
//! Uses the server of `DATABASE_URL`, or else the PostgreSQL installed on this machine. Provides a fresh,
//! migrated [`TestDatabase`] per test, or an [`OwnCluster`] for a test that crashes the server.
//! For tests only. It never touches a database it did not create, and never leaves a server or a
//! directory behind, however the test process ends.
//!
//! Without `DATABASE_URL` each test process runs one private server without durability. With it,
//! databases are named after the run, dropped after each test, and removed by a later run if the
//! process died first. Concurrent runs do not affect each other.

#![expect(
    clippy::expect_used,
    reason = "used by tests only, which should stop at the first unexpected result"
)]

mod keeper;
mod own;
mod shared_server;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use url::Url;

use keeper::{Keeper, Template};
pub use own::OwnCluster;

/// A private database for one test: migrated, empty, dropped after the test.
///
/// Keep it until the test ends; dropping it closes remaining connections.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    pool: PgPool,
    keeper: &'static Keeper,
}

impl TestDatabase {
    /// Creates a database by copying a migrated template, which takes about ten milliseconds; the
    /// first call of a process also starts the server and migrates the template.
    ///
    /// # Panics
    /// When the server or the database cannot be created, with the reason.
    pub async fn create() -> Self {
        Self::copy_of(Template::Migrated).await
    }

    /// Creates a database without a schema, for tests of migrations.
    ///
    /// # Panics
    /// As [`TestDatabase::create`].
    pub async fn create_empty() -> Self {
        Self::copy_of(Template::Empty).await
    }

    async fn copy_of(template: Template) -> Self {
        let keeper = Keeper::of_this_process().await;
        let name = keeper.create(template).await;
        let pool = PgPoolOptions::new()
            .max_connections(20)
            .connect_lazy_with(options(&keeper.owner_url(&name)));
        Self { name, pool, keeper }
    }

    /// A pool of at most 20 connections, as the role that owns the database: `harkara`, which is
    /// no superuser, or the user of `DATABASE_URL`. Each call returns the same pool; it belongs to
    /// the test's own runtime.
    #[must_use]
    pub fn pool(&self) -> PgPool {
        self.pool.clone()
    }

    /// The URL of the database for the role that owns it.
    #[must_use]
    pub fn url(&self) -> String {
        self.keeper.owner_url(&self.name).into()
    }

    /// The URL of the database for the superuser, or for the user of `DATABASE_URL`.
    #[must_use]
    pub fn superuser_url(&self) -> String {
        self.keeper.superuser_url(&self.name).into()
    }

    /// The database's name on its server.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        self.keeper.drop_database(std::mem::take(&mut self.name));
    }
}

/// Connection options for `url`.
fn options(url: &Url) -> PgConnectOptions {
    url.as_str().parse().expect("a PostgreSQL URL")
}

/// Runs the workspace's migrations in the database of `url`, leaving no connection behind.
async fn migrate(url: &Url) {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(options(url));
    harkara_shared::database::migrate(&pool)
        .await
        .expect("migrations run");
    pool.close().await;
}
