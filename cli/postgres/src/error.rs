//! Errors of the embedded database, worded for the person who starts it.

use std::io;
use std::path::{Path, PathBuf};

/// Why the embedded database could not be found, started or stopped.
///
/// Every message names what was examined and, if there is one, the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No usable PostgreSQL on this machine.
    #[error("no PostgreSQL {oldest} or newer was found on this machine{seen}; {hint}")]
    NotFound {
        /// The oldest major version that is accepted.
        oldest: u32,
        /// Rejected installations with their reasons, or empty.
        seen: String,
        /// How to install PostgreSQL on this system.
        hint: String,
    },
    /// PostgreSQL is not installed and its programs could not be downloaded.
    #[error(
        "no PostgreSQL is installed and version {version} could not be downloaded ({reason}); {hint}"
    )]
    Download {
        /// The version that was to be downloaded.
        version: &'static str,
        /// Why it failed.
        reason: String,
        /// How to do without the download.
        hint: String,
    },
    /// What was downloaded is not the archive that this release knows.
    #[error(
        "the downloaded archive of PostgreSQL {version} has the SHA-256 {found}, expected \
         {expected}; it was not used"
    )]
    DamagedDownload {
        /// The version.
        version: &'static str,
        /// The SHA-256 of what was received.
        found: String,
        /// The pinned SHA-256.
        expected: String,
    },
    /// The configured directory does not contain a usable PostgreSQL.
    #[error("the configured PostgreSQL directory {} cannot be used: {reason}", bin.display())]
    Configured {
        /// The configured directory.
        bin: PathBuf,
        /// Why it is not usable.
        reason: String,
    },
    /// Started as root without an account to run the server as.
    #[error(
        "PostgreSQL does not run as root, and this machine has neither a user `postgres` nor \
         `nobody`; start Harkara as an unprivileged user"
    )]
    NoServerUser,
    /// The server's account cannot reach or run the programs.
    #[error(
        "{user} cannot run the PostgreSQL programs in {} ({reason}); install PostgreSQL where \
         every user can reach it, or start Harkara as an unprivileged user",
        bin.display()
    )]
    ProgramsUnreachable {
        /// The programs' directory.
        bin: PathBuf,
        /// Description of the account.
        user: String,
        /// The error of the operating system.
        reason: String,
    },
    /// The server's account can reach neither the data directory nor a replacement.
    #[error(
        "{user} can neither create nor enter {} or any replacement for it; configure a data \
         directory that this account can reach",
        data_dir.display()
    )]
    DataUnreachable {
        /// The configured data directory.
        data_dir: PathBuf,
        /// Description of the account.
        user: String,
    },
    /// The cluster's directory belongs to root, or to another user while this process is not root.
    #[error(
        "{} belongs to the user with id {owner}, as which the server cannot be run; start Harkara \
         as the directory's owner or as root, or change the owner with `chown -R`",
        cluster.display()
    )]
    ForeignOwner {
        /// The cluster's directory.
        cluster: PathBuf,
        /// Its owner's user id.
        owner: u32,
    },
    /// The data was created by a major version that is not installed.
    #[error(
        "{} contains data of PostgreSQL {data_major}, but only {found} is installed; install \
         PostgreSQL {data_major}, or move that directory away to start with an empty database",
        cluster.display()
    )]
    OtherMajor {
        /// The cluster's directory.
        cluster: PathBuf,
        /// The major version that created it.
        data_major: u32,
        /// The installed major versions, separated by commas.
        found: String,
    },
    /// A running process has locked the data directory.
    #[error("another Harkara is running on this data directory ({})", data_dir.display())]
    InUse {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// An orphaned server is still running on the data and does not end.
    #[error(
        "a PostgreSQL server is still running on {}; stop it, then retry. The end of its log:\n\
         {log}",
        cluster.display()
    )]
    StillRunning {
        /// The cluster's directory.
        cluster: PathBuf,
        /// The end of the server's log.
        log: String,
    },
    /// `initdb` failed.
    #[error("initdb could not create a cluster in {}:\n{log}", cluster.display())]
    Init {
        /// The cluster's directory.
        cluster: PathBuf,
        /// The output of initdb.
        log: String,
    },
    /// The server ended during its start.
    #[error("PostgreSQL did not start; the end of its log:\n{log}")]
    Died {
        /// The end of the server's log.
        log: String,
    },
    /// The server is running but does not become ready.
    #[error("PostgreSQL was not ready after {seconds} s; the end of its log:\n{log}")]
    NotReady {
        /// Time limit, in seconds.
        seconds: u64,
        /// The end of the server's log.
        log: String,
    },
    /// The server does not react to requests to stop.
    #[error("PostgreSQL (process {pid}) did not stop within {seconds} s")]
    NotStopping {
        /// The postmaster's process id.
        pid: u32,
        /// Time limit, in seconds.
        seconds: u64,
    },
    /// No directory is private and short enough for the server's socket.
    #[error(
        "no private directory with a path shorter than {limit} bytes for the database's socket"
    )]
    NoSocketDirectory {
        /// The longest path the system supports, in bytes.
        limit: usize,
    },
    /// An operation on a file, directory or process failed.
    #[error("cannot {action}: {source}")]
    Io {
        /// The operation, as a verb phrase with its path.
        action: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The running server rejected the creation of Harkara's role or database.
    #[error("cannot prepare the embedded database: {0}")]
    Sql(#[from] sqlx::Error),
}

/// Adds the attempted operation to a system error: `.while_doing("read", path)`.
pub(crate) trait IoContext<T> {
    /// `action` is a verb, `path` its object.
    fn while_doing(self, action: &str, path: &Path) -> Result<T, Error>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn while_doing(self, action: &str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io {
            action: format!("{action} {}", path.display()),
            source,
        })
    }
}
