//! Private PostgreSQL servers for tests, run from the programs installed on this machine, in
//! temporary directories that are removed with the process. Never uses `DATABASE_URL`.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::{env, process};

use harkara_postgres::{Cluster, Options, obtain, report_to_stderr};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use url::Url;

use crate::{migrate, options};

/// The free memory, in bytes, above which clusters are placed in memory; containers often have only 64 MiB.
const MIN_FREE_MEMORY: u64 = 2 << 30;

/// A private server for a test that crashes PostgreSQL and starts it again.
///
/// It is as durable as in production (`fsync` on), its database is migrated, and it is removed with its
/// directory when dropped or when the test process ends.
#[derive(Debug)]
pub struct OwnCluster {
    cluster: Cluster,
}

impl OwnCluster {
    /// Creates, starts and migrates a server, which takes about a second.
    ///
    /// # Panics
    /// When any step fails, with the reason.
    pub async fn start() -> Self {
        let cluster = start_cluster(&env::temp_dir(), &[]).await;
        migrate(&parsed(&cluster.url())).await;
        Self { cluster }
    }

    /// The URL of the database `harkara` for the role `harkara`, which is no superuser. It does not change across
    /// restarts.
    #[must_use]
    pub fn url(&self) -> String {
        self.cluster.url()
    }

    /// The URL of the database `harkara` for the superuser.
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

    /// Stops the server like a crash: sessions are cut, nothing is flushed.
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
        self.cluster.restart().await.expect("a start");
    }
}

/// An ephemeral cluster in a directory of its own below `parent`.
pub(crate) async fn start_cluster(parent: &Path, settings: &[(&str, &str)]) -> Cluster {
    let configured = env::var_os("HARKARA_PG_BIN");
    let installation = obtain(configured.as_deref().map(Path::new), report_to_stderr)
        .await
        .expect("PostgreSQL");
    // Process ids are reused; a random number is not.
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

/// The directory for short-lived clusters: in memory if there is enough and `TMPDIR` is not set. Creating
/// a database creates 300 files, which takes 20 ms in memory and
/// up to 400 ms on a disk.
pub(crate) fn fast_directory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let roomy = rustix::fs::statvfs(memory)
        .is_ok_and(|found| found.f_bavail * found.f_frsize >= MIN_FREE_MEMORY);
    if roomy && env::var_os("TMPDIR").is_none() {
        memory.to_path_buf()
    } else {
        env::temp_dir()
    }
}

/// A cluster's URL, parsed.
pub(crate) fn parsed(url: &str) -> Url {
    url.parse().expect("a URL")
}
