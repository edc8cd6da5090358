//! The embedded database: starts a cluster, returns its URLs and stops it.
//!
//! No server is left behind, however the process ends; see [`crate::supervisor`].

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::time::timeout;

use crate::error::{Error, IoContext as _};
use crate::installation::Installation;
use crate::layout::{Layout, PORT};
use crate::roles::{self, HARKARA};
use crate::server::{self, Log};
use crate::supervisor::{Janitor, Supervised};

/// PostgreSQL's superuser in the clusters created here.
const SUPERUSER: &str = "postgres";

/// What to run and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory for the cluster, its log and its lock. Created if missing; can contain other files.
    ///
    /// When started as root, the server runs as another user, who must be able to traverse this directory
    /// and its parents (mode 0711 is enough). Otherwise the data is stored elsewhere and
    /// [`Cluster::notices`] reports it.
    pub data_dir: PathBuf,
    /// PostgreSQL's programs, from [`crate::discover`].
    pub installation: Installation,
    /// Server settings by name, such as `("fsync", "off")`. They override the defaults, except those that
    /// keep the server private.
    pub settings: Vec<(String, String)>,
    /// Whether the data directory is removed with all its contents once the server has ended, even when
    /// this process is killed.
    pub ephemeral: bool,
}

impl Options {
    /// A permanent cluster with the default settings.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, installation: Installation) -> Self {
        Self {
            data_dir: data_dir.into(),
            installation,
            settings: Vec::new(),
            ephemeral: false,
        }
    }
}

/// How to stop the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Ends sessions, writes a checkpoint, exits.
    Fast,
    /// Exits immediately, as in a crash; the next start recovers. Nothing committed is lost.
    Immediate,
}

/// A private PostgreSQL server that runs as long as this value exists.
///
/// Dropping it requests a fast shutdown without waiting; [`Cluster::stop`] waits. When the process ends in
/// any other way, including SIGKILL, the server shuts down by itself. The value is not tied to an async
/// runtime: it can be created in one and stopped in another.
#[derive(Debug)]
pub struct Cluster {
    // Fields drop in order: the server is stopped before the janitor starts removing.
    server: Supervised,
    janitor: Option<Janitor>,
    layout: Layout,
    settings: Vec<(String, String)>,
    /// Held for the lifetime of this value, so that a second process on the directory fails immediately.
    _lock: File,
}

impl Cluster {
    /// Starts the cluster in `options.data_dir`. The first start creates it, with a role `harkara` (not a
    /// superuser, can create roles) and a database `harkara` owned by that role.
    ///
    /// Waits for recovery after a crash and for a previous server that is still shutting down. Dropping
    /// the future undoes the start. Requires a tokio runtime with time and I/O enabled.
    ///
    /// # Errors
    /// When the server cannot run; see [`Error`]. No process is left running then.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let layout = Layout::find(&options.data_dir, &options.installation)?;
        let lock = lock(&layout.data)?;
        let janitor = options
            .ephemeral
            .then(|| Janitor::start(&layout.pid_file(), &layout.all_directories()))
            .transpose()
            .while_doing("watch over", &layout.data)?;
        server::create_cluster(&layout, !options.ephemeral).await?;
        let server = server::start(&layout, &options.settings).await?;
        let cluster = Self {
            server,
            janitor,
            layout,
            settings: options.settings,
            _lock: lock,
        };
        roles::prepare(&cluster.superuser()).await?;
        tracing::debug!(
            data = %cluster.layout.data.display(),
            version = cluster.layout.installation.version(),
            "the embedded database is ready"
        );
        Ok(cluster)
    }

    /// URL of the database `harkara` as the role `harkara`, which is not a superuser.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_as(HARKARA)
    }

    /// URL of the database `harkara` as PostgreSQL's superuser; for tests and tools only.
    #[must_use]
    pub fn superuser_url(&self) -> String {
        self.url_as(SUPERUSER)
    }

    fn url_as(&self, role: &str) -> String {
        // The socket's path contains only characters that need no escaping.
        let socket = self.layout.socket.display();
        format!("postgres://{role}@localhost:{PORT}/{HARKARA}?host={socket}")
    }

    fn superuser(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.layout.socket)
            .port(PORT)
            .username(SUPERUSER)
            .database("postgres")
    }

    /// Deviations from the options, as sentences to print: the data is stored elsewhere, or programs of
    /// another version are used. Usually empty.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.layout.notices
    }

    /// The data directory in use, with symbolic links resolved.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.layout.data
    }

    /// The PostgreSQL programs in use.
    #[must_use]
    pub fn installation(&self) -> &Installation {
        &self.layout.installation
    }

    /// The file the server logs to.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        Log::of(&self.layout).path()
    }

    /// The process id of the server's main process, which can have ended.
    #[must_use]
    pub fn postmaster_pid(&self) -> u32 {
        self.server.pid()
    }

    /// Whether the server is running.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.server.is_running()
    }

    /// Waits until the server has ended for any reason. Cancel safe.
    pub async fn exited(&mut self) {
        self.server.exited().await;
    }

    /// Stops the server and waits for its end. An ephemeral cluster is removed before this returns.
    ///
    /// # Errors
    /// [`Error::NotStopping`] when the server does not end within 70 seconds.
    pub async fn stop(mut self, how: Shutdown) -> Result<(), Error> {
        self.halt(how).await?;
        if let Some(janitor) = self.janitor.take() {
            janitor.finish().await;
        }
        Ok(())
    }

    /// Stops the server as a crash would, keeping everything for [`Cluster::restart`].
    ///
    /// # Errors
    /// [`Error::NotStopping`] when the server does not end within 10 seconds.
    pub async fn stop_immediate(&mut self) -> Result<(), Error> {
        self.halt(Shutdown::Immediate).await
    }

    /// Restarts the server after it has ended, at the same URLs. Does nothing while it is running.
    ///
    /// # Errors
    /// As for [`Cluster::start`].
    pub async fn restart(&mut self) -> Result<(), Error> {
        if !self.is_running() {
            self.server = server::start(&self.layout, &self.settings).await?;
        }
        Ok(())
    }

    async fn halt(&mut self, how: Shutdown) -> Result<(), Error> {
        let steps: &[(&str, u64)] = match how {
            Shutdown::Fast => &[("INT", 60), ("QUIT", 10)],
            Shutdown::Immediate => &[("QUIT", 10)],
        };
        for &(signal, seconds) in steps {
            // A signal that cannot be sent means that the server has ended already.
            let _ = self.server.signal(signal);
            let ended = timeout(Duration::from_secs(seconds), self.server.exited());
            if ended.await.is_ok() {
                return Ok(());
            }
        }
        Err(Error::NotStopping {
            pid: self.server.pid(),
            seconds: steps.iter().map(|(_, seconds)| seconds).sum(),
        })
    }
}

/// Locks the data directory. The operating system releases the lock when this process ends for any
/// reason; the server does not inherit it.
fn lock(data: &Path) -> Result<File, Error> {
    let path = data.join("postgres.lock");
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .while_doing("open", &path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse {
            data_dir: data.to_path_buf(),
        }),
        Err(TryLockError::Error(source)) => Err(source).while_doing("lock", &path),
    }
}
