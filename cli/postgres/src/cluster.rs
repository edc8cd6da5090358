//! Room: the embedded database as its user sees it.
//! Takes: [`Options`]. Gives: a [`Cluster`] that runs, its URLs, and its end.
//! Never: leaves a server behind, however we end; see [`crate::supervisor`].

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::time::timeout;

use crate::error::{Doing, Error};
use crate::installation::Installation;
use crate::place::{PORT, Place};
use crate::roles::{self, HARKARA};
use crate::server::{self, Log};
use crate::supervisor::{Janitor, Supervised};

/// PostgreSQL's own superuser in the clusters made here.
const SUPERUSER: &str = "postgres";

/// What to run and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory for the cluster, its log and its lock; made if missing, and may hold other
    /// things too.
    ///
    /// Started as root the server runs as another user, who must be able to pass through this
    /// directory and its parents (mode 0711 is enough). Where that cannot be, the data goes
    /// elsewhere and [`Cluster::notices`] says so.
    pub data_dir: PathBuf,
    /// PostgreSQL's programs, from [`crate::discover`].
    pub installation: Installation,
    /// Server settings by name, such as `("fsync", "off")`. They win over the defaults, but not
    /// over those that keep the server private.
    pub settings: Vec<(String, String)>,
    /// Removes the data directory, with all it holds, once the server has ended; also when our
    /// process is killed.
    pub ephemeral: bool,
}

impl Options {
    /// A lasting cluster with the default settings.
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

/// How to end the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Ends sessions, writes everything out, ends.
    Fast,
    /// Ends at once, as in a crash; the next start recovers. Nothing committed is lost.
    Immediate,
}

/// A private PostgreSQL server that runs as long as this value lives.
///
/// Dropping it asks the server for a fast shutdown without waiting; [`Cluster::stop`] waits. When
/// our process ends in any other way, SIGKILL included, the server shuts down by itself.
/// The value is tied to no async runtime: it may be made in one and stopped in another.
#[derive(Debug)]
pub struct Cluster {
    // Dropped first to last: the server is asked to stop before the janitor is let loose.
    server: Supervised,
    janitor: Option<Janitor>,
    place: Place,
    settings: Vec<(String, String)>,
    /// Held as long as we live, so that a second Harkara is refused at once.
    _lock: File,
}

impl Cluster {
    /// Starts the cluster in `options.data_dir`, making it on the first start, and in it a role
    /// `harkara` (no superuser, may create roles) and a database `harkara` that it owns.
    ///
    /// Waits for recovery after a crash and for a predecessor that is still shutting down.
    /// Dropping the future undoes the start. Needs a tokio runtime with time and I/O enabled.
    ///
    /// # Errors
    /// Whatever keeps the server from running; see [`Error`]. Nothing is left running then.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let place = Place::find(&options.data_dir, &options.installation)?;
        let lock = lock(&place.data)?;
        let janitor = options
            .ephemeral
            .then(|| Janitor::start(&place.pid_file(), &place.all_directories()))
            .transpose()
            .doing("watch over", &place.data)?;
        server::make_cluster(&place, !options.ephemeral).await?;
        let server = server::start(&place, &options.settings).await?;
        let cluster = Self {
            server,
            janitor,
            place,
            settings: options.settings,
            _lock: lock,
        };
        roles::prepare(&cluster.superuser()).await?;
        tracing::debug!(
            data = %cluster.place.data.display(),
            version = cluster.place.installation.version(),
            "the embedded database is ready"
        );
        Ok(cluster)
    }

    /// The database `harkara` as the role `harkara`, which is no superuser.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_as(HARKARA)
    }

    /// The database `harkara` as PostgreSQL's superuser; for tests and tools only.
    #[must_use]
    pub fn superuser_url(&self) -> String {
        self.url_as(SUPERUSER)
    }

    fn url_as(&self, role: &str) -> String {
        // The socket's path was chosen to need no escaping.
        let socket = self.place.socket.display();
        format!("postgres://{role}@localhost:{PORT}/{HARKARA}?host={socket}")
    }

    fn superuser(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.place.socket)
            .port(PORT)
            .username(SUPERUSER)
            .database("postgres")
    }

    /// What is not as asked for, in sentences to print: the data lies elsewhere, or another
    /// version's programs are used. Usually empty.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.place.notices
    }

    /// The data directory in use, links resolved.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.place.data
    }

    /// The programs in use.
    #[must_use]
    pub fn installation(&self) -> &Installation {
        &self.place.installation
    }

    /// The file the server logs to.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        Log::of(&self.place).path()
    }

    /// The process id of the server's main process, also after its end.
    #[must_use]
    pub fn postmaster_pid(&self) -> u32 {
        self.server.pid()
    }

    /// Whether the server has not ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.server.is_running()
    }

    /// Waits until the server has ended, whatever the reason. Safe to cancel.
    pub async fn exited(&mut self) {
        self.server.exited().await;
    }

    /// Stops the server and waits for its end; an ephemeral cluster is removed on return.
    ///
    /// # Errors
    /// [`Error::NotStopping`] when the server ignores us for over a minute.
    pub async fn stop(mut self, how: Shutdown) -> Result<(), Error> {
        self.halt(how).await?;
        if let Some(janitor) = self.janitor.take() {
            janitor.finish().await;
        }
        Ok(())
    }

    /// Stops the server as a crash would and keeps everything for [`Cluster::start_again`].
    ///
    /// # Errors
    /// [`Error::NotStopping`] when the server does not end within seconds.
    pub async fn stop_immediate(&mut self) -> Result<(), Error> {
        self.halt(Shutdown::Immediate).await
    }

    /// Starts the server again after it has ended, at the same URLs. Does nothing while it runs.
    ///
    /// # Errors
    /// As for [`Cluster::start`].
    pub async fn start_again(&mut self) -> Result<(), Error> {
        if !self.is_running() {
            self.server = server::start(&self.place, &self.settings).await?;
        }
        Ok(())
    }

    async fn halt(&mut self, how: Shutdown) -> Result<(), Error> {
        let steps: &[(&str, u64)] = match how {
            Shutdown::Fast => &[("INT", 60), ("QUIT", 10)],
            Shutdown::Immediate => &[("QUIT", 10)],
        };
        for &(signal, seconds) in steps {
            // A signal that cannot be sent means that the server has ended, which is the aim.
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

/// Takes the data directory for ourselves. The system gives it back when we end, however we end;
/// the server does not hold it.
fn lock(data: &Path) -> Result<File, Error> {
    let path = data.join("postgres.lock");
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .doing("open", &path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse {
            data_dir: data.to_path_buf(),
        }),
        Err(TryLockError::Error(source)) => Err(source).doing("lock", &path),
    }
}
