//! Room: private servers for tests. Takes: the PostgreSQL on this machine. Gives: clusters in
//! temporary directories that vanish with the process. Never: uses `DATABASE_URL`.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::{env, process};

use harkara_postgres::{Cluster, Options, discover};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use url::Url;

use crate::{migrate, options};

/// How much free memory counts as plenty, in bytes: containers often have 64 MiB.
const ROOMY: u64 = 2 << 30;

/// A server of its own for a test that stops PostgreSQL hard and starts it again.
///
/// It is as durable as in production (`fsync` on), its database is migrated, and it goes with its
/// directory when dropped or when the test process ends.
#[derive(Debug)]
pub struct OwnCluster {
    cluster: Cluster,
}

impl OwnCluster {
    /// Makes, starts and migrates a server; takes about a second.
    ///
    /// # Panics
    /// When that cannot be done, with the reason.
    pub async fn start() -> Self {
        let cluster = start_cluster(&env::temp_dir(), &[]).await;
        migrate(&parsed(&cluster.url())).await;
        Self { cluster }
    }

    /// The database `harkara` as the role `harkara`, which is no superuser. Stays the same over
    /// restarts.
    #[must_use]
    pub fn url(&self) -> String {
        self.cluster.url()
    }

    /// The database `harkara` as the superuser.
    #[must_use]
    pub fn superuser_url(&self) -> String {
        self.cluster.superuser_url()
    }

    /// A new pool of at most 20 connections as the role `harkara`, in the caller's runtime.
    #[must_use]
    pub fn pool(&self) -> PgPool {
        PgPoolOptions::new()
            .max_connections(20)
            .connect_lazy_with(options(&parsed(&self.url())))
    }

    /// The server's log, for messages of failed tests.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.cluster.log_file()
    }

    /// Stops the server as a crash would: sessions are cut, nothing is written out.
    ///
    /// # Panics
    /// When it does not stop.
    pub async fn stop_immediate(&mut self) {
        self.cluster.stop_immediate().await.expect("a stop");
    }

    /// Starts the server again and waits for its recovery.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_again(&mut self) {
        self.cluster.start_again().await.expect("a start");
    }
}

/// An ephemeral cluster in a directory of its own below `parent`.
pub(crate) async fn start_cluster(parent: &Path, settings: &[(&str, &str)]) -> Cluster {
    let configured = env::var_os("HARKARA_PG_BIN");
    let installation = discover(configured.as_deref().map(Path::new)).expect("PostgreSQL");
    // Process ids come again; a random number does not.
    let random = RandomState::new().hash_one(process::id());
    let name = format!("harkara-test-{}-{random:016x}", process::id());
    let settings = [("shared_buffers", "128MB")]
        .iter()
        .chain(settings)
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Cluster::start(Options {
        settings,
        ephemeral: true,
        ..Options::new(parent.join(name), installation)
    })
    .await
    .expect("a private PostgreSQL server")
}

/// Where a cluster goes that need not outlast anything: memory, if there is plenty and `TMPDIR` does
/// not name another place. Making a database means making 300 files, which takes 20 ms there and
/// was seen to take 400 ms on a disk.
pub(crate) fn fast_directory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let roomy =
        rustix::fs::statvfs(memory).is_ok_and(|found| found.f_bavail * found.f_frsize >= ROOMY);
    if roomy && env::var_os("TMPDIR").is_none() {
        memory.to_path_buf()
    } else {
        env::temp_dir()
    }
}

/// A cluster's URL, taken apart.
pub(crate) fn parsed(url: &str) -> Url {
    url.parse().expect("a URL")
}
