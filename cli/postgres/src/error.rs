//! Room: what can go wrong with the embedded database, in words for the person who started it.
//! Takes: the facts of a failure. Gives: one [`Error`]. Never: logs or decides what happens next.

use std::io;
use std::path::{Path, PathBuf};

/// Why the embedded database could not be found, started or stopped.
///
/// Every message says what was looked at and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No usable PostgreSQL on this machine.
    #[error("no PostgreSQL {oldest} or newer was found on this machine{seen}; {hint}")]
    NotFound {
        /// The oldest major version that is accepted.
        oldest: u32,
        /// What was found and rejected, or empty.
        seen: String,
        /// How to install it here.
        hint: String,
    },
    /// The directory given in the configuration does not hold a usable PostgreSQL.
    #[error("the configured PostgreSQL directory {} cannot be used: {reason}", bin.display())]
    Configured {
        /// The directory as given.
        bin: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Started as root, and there is no account to run the server as.
    #[error(
        "PostgreSQL does not run as root, and this machine has neither a user `postgres` nor \
         `nobody`; start Harkara as an ordinary user"
    )]
    NoServerUser,
    /// The server's account may not reach or run the programs.
    #[error(
        "{user} cannot run the PostgreSQL programs in {} ({reason}); install PostgreSQL where \
         every user can reach it, or start Harkara as an ordinary user",
        bin.display()
    )]
    ProgramsUnreachable {
        /// The programs' directory.
        bin: PathBuf,
        /// The account, in words.
        user: String,
        /// What the system answered.
        reason: String,
    },
    /// Neither the data directory nor a replacement can be reached by the server's account.
    #[error(
        "{user} cannot make or enter {}, nor any place used instead; name a data directory that \
         can be reached",
        data_dir.display()
    )]
    DataUnreachable {
        /// The data directory as asked for.
        data_dir: PathBuf,
        /// The account, in words.
        user: String,
    },
    /// The cluster's directory belongs to root, or to someone else and we are not root.
    #[error(
        "{} belongs to the user with id {owner}, as whom the server cannot be run from here; \
         start Harkara as the directory's owner or as root, or give it away with `chown -R`",
        cluster.display()
    )]
    ForeignOwner {
        /// The cluster's directory.
        cluster: PathBuf,
        /// Its owner's user id.
        owner: u32,
    },
    /// The data was made by a major version whose programs are not on the machine.
    #[error(
        "{} holds data made by PostgreSQL {made_by}, but only {found} was found; install \
         PostgreSQL {made_by}, or move that directory away to start empty",
        cluster.display()
    )]
    OtherMajor {
        /// The cluster's directory.
        cluster: PathBuf,
        /// The major version that made it.
        made_by: u32,
        /// The major versions found, in words.
        found: String,
    },
    /// A live process holds the data directory.
    #[error("another Harkara is running on this data directory ({})", data_dir.display())]
    InUse {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// A server nobody holds any more is still running on the data and does not go away.
    #[error(
        "a PostgreSQL server is still running on {}; stop it, then start again. Its last words:\n\
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
    #[error("initdb could not make a cluster in {}:\n{log}", cluster.display())]
    Init {
        /// The directory it was to make.
        cluster: PathBuf,
        /// What it printed.
        log: String,
    },
    /// The server ended while starting.
    #[error("PostgreSQL did not start; the end of its log:\n{log}")]
    Died {
        /// The end of the server's log.
        log: String,
    },
    /// The server lives but does not become ready.
    #[error("PostgreSQL was not ready after {seconds} s; the end of its log:\n{log}")]
    NotReady {
        /// How long it was waited for, in seconds.
        seconds: u64,
        /// The end of the server's log.
        log: String,
    },
    /// The server ignores every request to stop.
    #[error("PostgreSQL (process {pid}) did not stop within {seconds} s")]
    NotStopping {
        /// The postmaster's process id.
        pid: u32,
        /// How long it was waited for, in seconds.
        seconds: u64,
    },
    /// No directory is private and short enough for the server's socket.
    #[error("no private directory with a path under {limit} bytes for the database's socket")]
    NoSocketDirectory {
        /// The longest path the system takes, in bytes.
        limit: usize,
    },
    /// A file, directory or process could not be handled.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried, as a verb phrase with its path.
        action: String,
        /// What the system answered.
        source: io::Error,
    },
    /// The running server refused to make Harkara's role or database.
    #[error("cannot prepare the embedded database: {0}")]
    Sql(#[from] sqlx::Error),
}

/// Gives a system error the words of what was tried: `.doing("read", path)`.
pub(crate) trait Doing<T> {
    /// `action` is a verb; `path` what it was done to.
    fn doing(self, action: &str, path: &Path) -> Result<T, Error>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, action: &str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io {
            action: format!("{action} {}", path.display()),
            source,
        })
    }
}
