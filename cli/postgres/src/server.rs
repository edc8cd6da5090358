//! Room: making a cluster and starting its server.
//! Takes: a [`Place`] whose lock we hold. Gives: a server that is ready.
//! Never: starts a server on a half-made cluster, or takes a stale pid file for a live server.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::error::{Doing, Error};
use crate::place::{PORT, Place};
use crate::supervisor::{LOCALE, Supervised};

/// How long a server may take to be ready. A server that gives up is noticed at once, so this
/// only bounds one that hangs; replaying the log after a crash on a slow disk takes minutes.
const READY: Duration = Duration::from_secs(300);

/// How long a predecessor's end is waited for: its shutdown, or the moment until a killed one is
/// reaped and its pid file counts as stale.
const PREDECESSOR: Duration = Duration::from_secs(30);

/// The log is put aside at a start when it is longer than this, in bytes.
const LONG_LOG: u64 = 32 << 20;

/// Settings for a small machine's only server; the caller's come after them and win.
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

/// Makes the cluster aside and puts it in place in one step, unless it is there already.
///
/// `lasting` says that it must survive a power cut as soon as it is made.
pub(crate) async fn make_cluster(place: &Place, lasting: bool) -> Result<(), Error> {
    if place.cluster.exists() {
        return Ok(());
    }
    let prefix = format!("postgres-{}-new", place.installation.major());
    remove_leftovers(&place.data, &prefix)?;
    // The number keeps us apart from a predecessor's initdb that is still cleaning up after itself.
    let aside = place.data.join(format!("{prefix}-{}", process::id()));
    DirBuilder::new()
        .mode(0o700)
        .create(&aside)
        .doing("make", &aside)?;
    place.user.give(&aside).doing("hand over", &aside)?;

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
    if !lasting {
        args.push("--no-sync".into());
    }
    args.push("-D".into());
    args.push(aside.clone().into());

    let log = Log::of(place);
    let initdb = place.installation.bin().join("initdb");
    let (file, from) = log.open()?;
    let mut run = Supervised::start(&initdb, &args, &place.user, file).doing("run", &initdb)?;
    if !run.exited().await.is_some_and(|status| status.success()) {
        let error = Error::Init {
            cluster: place.cluster.clone(),
            log: log.tail(from),
        };
        remove_leftovers(&place.data, &prefix)?;
        return Err(error);
    }
    fs::rename(&aside, &place.cluster).doing("put in place", &place.cluster)?;
    // The new name must last as long as what it names.
    File::open(&place.data)
        .and_then(|dir| dir.sync_all())
        .doing("sync", &place.data)
}

/// Removes what an interrupted start left aside.
fn remove_leftovers(data: &Path, prefix: &str) -> Result<(), Error> {
    for entry in fs::read_dir(data).doing("read", data)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            fs::remove_dir_all(entry.path()).doing("remove", &entry.path())?;
        }
    }
    Ok(())
}

/// Starts the server and waits until it takes connections, recovery included.
pub(crate) async fn start(
    place: &Place,
    settings: &[(String, String)],
) -> Result<Supervised, Error> {
    let log = Log::of(place);
    let postgres = place.installation.bin().join("postgres");
    let args = arguments(place, settings);
    let give_up = Instant::now() + PREDECESSOR;
    loop {
        let (file, from) = log.open()?;
        let mut server =
            Supervised::start(&postgres, &args, &place.user, file).doing("run", &postgres)?;
        match timeout(READY, ready(&mut server, place)).await {
            Ok(true) => return Ok(server),
            Ok(false) => {}
            Err(_) => {
                return Err(Error::NotReady {
                    seconds: READY.as_secs(),
                    log: log.tail(from),
                });
            }
        }
        let said = log.tail(from);
        if !is_held(&said) {
            return Err(Error::Died { log: said });
        }
        if Instant::now() > give_up {
            return Err(Error::StillRunning {
                cluster: place.cluster.clone(),
                log: said,
            });
        }
        sleep(Duration::from_millis(250)).await;
    }
}

/// Whether the server became ready; false when it ended.
///
/// Reads what `pg_ctl` reads: the first line of the pid file is the postmaster, the eighth its
/// state. The process id tells our server from one that was killed and left its file behind.
async fn ready(server: &mut Supervised, place: &Place) -> bool {
    let pid = server.pid().to_string();
    loop {
        let state = fs::read_to_string(place.pid_file()).unwrap_or_default();
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

/// Whether a server's last words blame a predecessor that is not quite gone.
fn is_held(said: &str) -> bool {
    said.contains("lock file \"postmaster.pid\" already exists")
        || (said.contains("pre-existing shared memory block") && said.contains("still in use"))
}

/// The server's command line. Settings stand here, not in a file, so that the ones of this
/// release of Harkara hold also for a cluster made by another.
fn arguments(place: &Place, settings: &[(String, String)]) -> Vec<OsString> {
    let socket = place.socket.to_string_lossy();
    let port = PORT.to_string();
    let fixed = [
        ("listen_addresses", ""),
        ("port", port.as_str()),
        ("unix_socket_directories", &*socket),
        ("unix_socket_permissions", "0700"),
        ("log_destination", "stderr"),
        ("logging_collector", "off"),
    ];
    let compression = has_lz4(place).then_some(("wal_compression", "lz4"));
    let chosen = settings
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let mut args = vec![OsString::from("-D"), place.cluster.clone().into()];
    // The last mention of a setting wins.
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

/// Whether the server can compress its log with lz4: from version 15, if built with it.
fn has_lz4(place: &Place) -> bool {
    let mut probe = Command::new(place.installation.bin().join("postgres"));
    probe
        .args(["-C", "wal_compression", "-c", "wal_compression=lz4", "-D"])
        .arg(&place.cluster);
    place.user.dress(&mut probe);
    probe
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// What initdb and the server print.
pub(crate) struct Log(PathBuf);

impl Log {
    /// `postgres.log` in the data directory.
    pub(crate) fn of(place: &Place) -> Self {
        Self(place.data.join("postgres.log"))
    }

    /// Where it is.
    pub(crate) fn path(self) -> PathBuf {
        self.0
    }

    /// Opens it at its end and tells where that is, in bytes. A long one is put aside first.
    fn open(&self) -> Result<(File, u64), Error> {
        let length = || fs::metadata(&self.0).map_or(0, |found| found.len());
        if length() > LONG_LOG {
            let old = self.0.with_extension("log.old");
            fs::rename(&self.0, &old).doing("put aside", &self.0)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.0)
            .doing("open", &self.0)?;
        Ok((file, length()))
    }

    /// Its last lines, of what was written after the byte `from`.
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
