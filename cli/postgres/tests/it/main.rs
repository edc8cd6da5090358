//! Tests of the embedded database with the machine's own PostgreSQL: what it keeps, where it is stored,
//! and that nothing is left behind.
//!
//! The tests run as root and as an ordinary user. Tests that need root are ignored by default;
//! `.ci/run` runs them where it is root.

#![expect(clippy::unwrap_used, reason = "a test should stop at the first error")]

mod crash;
mod data_directories;
mod download;
mod lifecycle;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use harkara_postgres::{Cluster, Installation, Options, obtain, report_to_stderr};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use sqlx::{Connection, Executor, PgConnection, Row};
use tempfile::TempDir;

/// The maximum wait for any condition.
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

/// The machine's PostgreSQL, the one named by `HARKARA_PG_BIN` to test several versions, or a downloaded one.
fn installation() -> Installation {
    static FOUND: OnceLock<Installation> = OnceLock::new();
    let find = || {
        let configured = std::env::var_os("HARKARA_PG_BIN");
        let found = obtain(configured.as_deref().map(Path::new), report_to_stderr);
        tokio::runtime::Runtime::new()
            .unwrap()
            .block_on(found)
            .unwrap()
    };
    // On a thread of its own: a test's thread already runs a runtime.
    FOUND
        .get_or_init(|| std::thread::spawn(find).join().unwrap())
        .clone()
}

/// An empty directory that the server's account can traverse; removed when the server that a
/// test left behind has ended.
struct Directory(TempDir);

fn directory() -> Directory {
    let mode = Permissions::from_mode(0o711);
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("harkara-it-").permissions(mode);
    Directory(builder.tempdir().unwrap())
}

impl Directory {
    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        until("the server has left its directory", || {
            !cluster_of(self.path()).join("postmaster.pid").exists()
                && fs::remove_dir_all(self.path()).is_ok()
        });
    }
}

fn options(data_dir: &Path) -> Options {
    Options {
        settings: vec![("shared_buffers".to_owned(), "16MB".to_owned())],
        ..Options::new(data_dir, installation())
    }
}

async fn start(data_dir: &Path) -> Cluster {
    Cluster::start(options(data_dir)).await.unwrap()
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

/// Adds a committed row and returns the number of rows.
async fn leave_a_mark(url: &str) -> i64 {
    let mut connection = connect(url).await;
    connection
        .execute("create table if not exists marks (); insert into marks default values")
        .await
        .unwrap();
    let row = connection.fetch_one("select count(*) from marks").await;
    row.unwrap().get(0)
}

/// Polls until `condition` holds; fails the test after [`EVENT_TIMEOUT`].
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "timed out after {EVENT_TIMEOUT:?} waiting until {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn pid(raw: u32) -> Pid {
    Pid::from_raw(raw.try_into().unwrap()).unwrap()
}

fn lives(raw: u32) -> bool {
    test_kill_process(pid(raw)).is_ok()
}

fn kill(raw: u32) {
    kill_process(pid(raw), Signal::KILL).unwrap();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The cluster's directory below a data directory.
fn cluster_of(data_dir: &Path) -> PathBuf {
    data_dir.join(format!("postgres-{}", installation().major()))
}

fn names_in(dir: &Path) -> Vec<String> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}
