//! Creates a cluster and starts its server.
//!
//! A server is never started on an incomplete cluster, and a stale pid file is not mistaken for a running
//! server.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::error::{Error, IoContext as _};
use crate::layout::{Layout, PORT};
use crate::supervisor::{LOCALE, Supervised};

/// How long a server can take to become ready. A server that exits is noticed immediately, so this only
/// bounds one that hangs; replaying the log after a crash on a slow disk takes minutes.
const READY_TIMEOUT: Duration = Duration::from_secs(300);

/// How long to wait for a previous server: its shutdown, or until a killed one is reaped and its pid file
/// counts as stale.
const PREVIOUS_SERVER_TIMEOUT: Duration = Duration::from_secs(30);

/// The log is rotated at a start when it is longer than this, in bytes.
const MAX_LOG_BYTES: u64 = 32 << 20;

/// Default settings for the only server of a small machine; the caller's settings override them.
const DEFAULTS: [(&str, &str); 9] = [
    ("cluster_name", "harkara"),
    ("jit", "off"),
    ("log_line_prefix", "%m [%p] "),
    ("log_timezone", "UTC"),
    ("max_connections", "100"),
    ("max_wal_size", "2GB"),
    ("shared_buffers", "256MB"),
    ("timezone", "UTC"),
    ("wal_compression", "on"),
];

/// Creates the cluster under a temporary name and renames it, unless it exists.
///
/// A `durable` cluster survives a power cut as soon as this returns.
pub(crate) async fn create_cluster(layout: &Layout, durable: bool) -> Result<(), Error> {
    if layout.cluster.exists() {
        return Ok(());
    }
    let prefix = format!("postgres-{}-new", layout.installation.major());
    remove_leftovers(&layout.data, &prefix)?;
    // The process id avoids a collision with an earlier initdb that is still cleaning up.
    let temporary = layout.data.join(format!("{prefix}-{}", process::id()));
    DirBuilder::new()
        .mode(0o700)
        .create(&temporary)
        .while_doing("create", &temporary)?;
    layout
        .user
        .take_ownership(&temporary)
        .while_doing("change the owner of", &temporary)?;

    let mut args: Vec<OsString> = [
        "--username=postgres",
        "--auth-local=trust",
        "--auth-host=reject",
        "--encoding=UTF8",
        "--data-checksums",
    ]
    .map(OsString::from)
    .to_vec();
    args.push(format!("--locale={LOCALE}").into());
    if !durable {
        args.push("--no-sync".into());
    }
    args.push("-D".into());
    args.push(temporary.clone().into());

    let log = Log::of(layout);
    let initdb = layout.installation.bin().join("initdb");
    let (file, from) = log.open()?;
    let mut run =
        Supervised::start(&initdb, &args, &layout.user, file).while_doing("run", &initdb)?;
    if !run.exited().await.is_some_and(|status| status.success()) {
        let error = Error::Init {
            cluster: layout.cluster.clone(),
            log: log.tail(from),
        };
        remove_leftovers(&layout.data, &prefix)?;
        return Err(error);
    }
    fs::rename(&temporary, &layout.cluster).while_doing("rename", &layout.cluster)?;
    // The new name must be as durable as the cluster.
    File::open(&layout.data)
        .and_then(|dir| dir.sync_all())
        .while_doing("sync", &layout.data)
}

/// Removes temporary directories of an interrupted start.
fn remove_leftovers(data: &Path, prefix: &str) -> Result<(), Error> {
    for entry in fs::read_dir(data).while_doing("read", data)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            fs::remove_dir_all(entry.path()).while_doing("remove", &entry.path())?;
        }
    }
    Ok(())
}

/// Starts the server and waits until it accepts connections, including recovery.
pub(crate) async fn start(
    layout: &Layout,
    settings: &[(String, String)],
) -> Result<Supervised, Error> {
    let log = Log::of(layout);
    let postgres = layout.installation.bin().join("postgres");
    let args = arguments(layout, settings);
    let deadline = Instant::now() + PREVIOUS_SERVER_TIMEOUT;
    loop {
        let (file, from) = log.open()?;
        let mut server = Supervised::start(&postgres, &args, &layout.user, file)
            .while_doing("run", &postgres)?;
        match timeout(READY_TIMEOUT, ready(&mut server, layout)).await {
            Ok(true) => return Ok(server),
            Ok(false) => {}
            Err(_) => {
                return Err(Error::NotReady {
                    seconds: READY_TIMEOUT.as_secs(),
                    log: log.tail(from),
                });
            }
        }
        let output = log.tail(from);
        if !is_blocked_by_previous_server(&output) {
            return Err(Error::Died { log: output });
        }
        if Instant::now() > deadline {
            return Err(Error::StillRunning {
                cluster: layout.cluster.clone(),
                log: output,
            });
        }
        sleep(Duration::from_millis(250)).await;
    }
}

/// Whether the server became ready; false when it ended.
///
/// Like `pg_ctl`, reads the pid file: the first line is the postmaster's process id, the eighth its state.
/// The process id distinguishes this server from a killed one that left its file behind.
async fn ready(server: &mut Supervised, layout: &Layout) -> bool {
    let pid = server.pid().to_string();
    loop {
        // Missing until the server has written it.
        let state = fs::read_to_string(layout.pid_file()).unwrap_or_default();
        let mut lines = state.lines().map(str::trim);
        if lines.next() == Some(pid.as_str()) && lines.nth(6) == Some("ready") {
            return true;
        }
        if timeout(Duration::from_millis(10), server.exited())
            .await
            .is_ok()
        {
            return false;
        }
    }
}

/// Whether the server's output blames a previous server that has not ended.
fn is_blocked_by_previous_server(output: &str) -> bool {
    output.contains("lock file \"postmaster.pid\" already exists")
        || (output.contains("pre-existing shared memory block") && output.contains("still in use"))
}

/// The server's command line. Settings are passed here rather than in a file, so that this release's
/// settings also apply to a cluster created by another release.
fn arguments(layout: &Layout, settings: &[(String, String)]) -> Vec<OsString> {
    let socket = layout.socket.to_string_lossy();
    let port = PORT.to_string();
    let fixed = [
        ("listen_addresses", ""),
        ("port", port.as_str()),
        ("unix_socket_directories", &*socket),
        ("unix_socket_permissions", "0700"),
        ("log_destination", "stderr"),
        ("logging_collector", "off"),
    ];
    let compression = has_lz4(layout).then_some(("wal_compression", "lz4"));
    let chosen = settings
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let mut args = vec![OsString::from("-D"), layout.cluster.clone().into()];
    // The last occurrence of a setting wins.
    for (name, value) in DEFAULTS
        .into_iter()
        .chain(compression)
        .chain(chosen)
        .chain(fixed)
    {
        args.push("-c".into());
        args.push(format!("{name}={value}").into());
    }
    args
}

/// Whether the server supports lz4 compression of its write-ahead log: since version 15, if built with it.
fn has_lz4(layout: &Layout) -> bool {
    let mut probe = Command::new(layout.installation.bin().join("postgres"));
    probe
        .args(["-C", "wal_compression", "-c", "wal_compression=lz4", "-D"])
        .arg(&layout.cluster);
    layout.user.apply_to(&mut probe);
    probe
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The log of initdb and the server.
pub(crate) struct Log(PathBuf);

impl Log {
    /// `postgres.log` in the data directory.
    pub(crate) fn of(layout: &Layout) -> Self {
        Self(layout.data.join("postgres.log"))
    }

    /// Path of the log.
    pub(crate) fn path(self) -> PathBuf {
        self.0
    }

    /// Opens the log for appending and returns its length in bytes. A long log is rotated first.
    fn open(&self) -> Result<(File, u64), Error> {
        let length = || fs::metadata(&self.0).map_or(0, |found| found.len());
        if length() > MAX_LOG_BYTES {
            let old = self.0.with_extension("log.old");
            fs::rename(&self.0, &old).while_doing("rotate", &self.0)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.0)
            .while_doing("open", &self.0)?;
        Ok((file, length()))
    }

    /// The last lines written after the byte offset `from`.
    fn tail(&self, from: u64) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(&self.0)?;
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<_> = text.lines().collect();
            let last = lines.len().saturating_sub(20);
            Ok(lines.into_iter().skip(last).collect::<Vec<_>>().join("\n"))
        };
        read().unwrap_or_else(|error| format!("(cannot read {}: {error})", self.0.display()))
    }
}
