//! Decides where the embedded database lives: its directories, account and programs.
//!
//! Nothing is removed here, and no existing directory is given to another account.

use std::env;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf, absolute};

use crate::error::{Error, IoContext as _};
use crate::installation::Installation;
use crate::user::ServerUser;

/// The port in the socket's name; no network port is opened.
pub(crate) const PORT: u16 = 5432;

/// The longest path of a socket's directory, in bytes. The socket's path must stay below 100 bytes,
/// because systems limit a socket's address to 104 to 108 bytes.
const MAX_SOCKET_DIRECTORY_LEN: usize = 100 - "/.s.PGSQL.5432".len() - 1;

/// The directories, account and programs of one cluster.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The data directory, with symbolic links resolved. Can contain other files of Harkara.
    pub(crate) data: PathBuf,
    /// The cluster's directory, `postgres-<major>` in the data directory; possibly not created yet.
    pub(crate) cluster: PathBuf,
    /// The private directory of the server's socket.
    pub(crate) socket: PathBuf,
    /// The account the server runs as.
    pub(crate) user: ServerUser,
    /// The programs to use.
    pub(crate) installation: Installation,
    /// Deviations from the options, as sentences to print.
    pub(crate) notices: Vec<String>,
}

/// An existing cluster's directory and the major version that created it.
struct ExistingCluster {
    directory: PathBuf,
    major: u32,
}

impl Layout {
    /// Chooses the location for the cluster of `requested` and creates the directories around it.
    pub(crate) fn find(requested: &Path, found: &Installation) -> Result<Self, Error> {
        let mut notices = Vec::new();
        let (data, existing, user) = reachable_data_dir(requested, &mut notices)?;
        let installation = match &existing {
            None => found,
            Some(existing) => found
                .of_major(existing.major)
                .ok_or_else(|| Error::OtherMajor {
                    cluster: existing.directory.clone(),
                    data_major: existing.major,
                    found: found.majors(),
                })?,
        };
        if installation.major() != found.major() {
            notices.push(format!(
                "the data was created by PostgreSQL {}, so its programs are used, not those of {}",
                installation.major(),
                found.major()
            ));
        }
        user.can_run(&installation.bin().join("postgres"))
            .map_err(|reason| Error::ProgramsUnreachable {
                bin: installation.bin().to_path_buf(),
                user: user.name().to_owned(),
                reason,
            })?;
        Ok(Self {
            cluster: data.join(format!("postgres-{}", installation.major())),
            socket: socket_directory(&data, &user)?,
            installation: installation.clone(),
            data,
            user,
            notices,
        })
    }

    /// The file to which the server writes its process id and state.
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.cluster.join("postmaster.pid")
    }

    /// All directories of the cluster, for removal.
    pub(crate) fn all_directories(&self) -> [PathBuf; 2] {
        [self.data.clone(), self.socket.clone()]
    }
}

/// The data directory to use, the cluster in it, and the account that can reach it.
fn reachable_data_dir(
    requested: &Path,
    notices: &mut Vec<String>,
) -> Result<(PathBuf, Option<ExistingCluster>, ServerUser), Error> {
    let requested = absolute(requested).while_doing("resolve", requested)?;
    for candidate in candidates(&requested) {
        let existing = cluster_in(&candidate)?;
        let user = match &existing {
            Some(existing) => {
                let metadata = fs::symlink_metadata(&existing.directory)
                    .while_doing("inspect", &existing.directory)?;
                ServerUser::for_cluster(&existing.directory, &metadata)?
            }
            None => ServerUser::for_new_cluster()?,
        };
        if can_use(&candidate, &user) && (candidate == requested || is_owned_by_us(&candidate)) {
            let data = fs::canonicalize(&candidate).while_doing("resolve", &candidate)?;
            if candidate != requested {
                notices.push(format!(
                    "{} cannot be reached by {}, which runs the database; the data is in {}",
                    requested.display(),
                    user.name(),
                    data.display()
                ));
            }
            return Ok((data, existing, user));
        }
        // Using another directory would look like data loss.
        if existing.is_some() {
            break;
        }
    }
    Err(Error::DataUnreachable {
        data_dir: requested,
        user: ServerUser::for_new_cluster()?.name().to_owned(),
    })
}

/// Candidate data directories, in order of preference. Only root, which runs the server under another
/// account, has more than the requested one; their names are the same at every start.
fn candidates(requested: &Path) -> Vec<PathBuf> {
    let mut all = vec![requested.to_path_buf()];
    if ServerUser::must_drop() {
        let name = stable_name(requested);
        all.push(Path::new("/var/lib/harkara").join(&name));
        all.push(env::temp_dir().join(format!("harkara-{name}")));
    }
    all
}

/// The newest cluster in a data directory, if any.
fn cluster_in(data: &Path) -> Result<Option<ExistingCluster>, Error> {
    let entries = match fs::read_dir(data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.while_doing("read", data)?,
    };
    Ok(entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let major = name.to_str()?.strip_prefix("postgres-")?.parse().ok()?;
            let directory = entry.path();
            // A directory that cannot be read counts as a cluster: its owner is checked later.
            let empty = matches!(directory.join("PG_VERSION").try_exists(), Ok(false));
            (!empty).then_some(ExistingCluster { directory, major })
        })
        .max_by_key(|cluster| cluster.major))
}

/// Whether the account can enter `dir`, which is created if missing. Nothing is created in a parent that
/// the account cannot enter.
fn can_use(dir: &Path, user: &ServerUser) -> bool {
    let nearest = dir.ancestors().find(|parent| parent.is_dir());
    nearest.is_some_and(|parent| user.can_enter(parent))
        && create_directory(dir).is_ok()
        && user.can_enter(dir)
}

/// Creates a directory and its parents. Directories that root creates can be traversed but not listed by
/// the server's account, regardless of the umask.
fn create_directory(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        create_directory(parent)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    if ServerUser::must_drop() {
        fs::set_permissions(dir, Permissions::from_mode(0o711))?;
    }
    Ok(())
}

/// Whether this user owns the directory, whose name others could guess and create first.
fn is_owned_by_us(dir: &Path) -> bool {
    let uid = rustix::process::geteuid().as_raw();
    fs::symlink_metadata(dir).is_ok_and(|found| found.is_dir() && found.uid() == uid)
}

/// A private directory for the socket with a short path of plain characters: in the data directory, else
/// in a temporary directory with a stable name.
fn socket_directory(data: &Path, user: &ServerUser) -> Result<PathBuf, Error> {
    let short = format!("harkara-{}", stable_name(data));
    [
        data.join("run"),
        env::temp_dir().join(&short),
        Path::new("/tmp").join(&short),
    ]
    .into_iter()
    .find(|dir| is_plain(dir) && create_private(dir, user).unwrap_or(false))
    .ok_or(Error::NoSocketDirectory {
        limit: MAX_SOCKET_DIRECTORY_LEN,
    })
}

/// Whether a path needs no escaping in the server's settings and in URLs, and is short enough.
fn is_plain(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.len() <= MAX_SOCKET_DIRECTORY_LEN
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(byte))
}

/// Creates `dir` with access for the account alone; false if it exists with other access.
fn create_private(dir: &Path, user: &ServerUser) -> io::Result<bool> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    // Also for an existing directory: an earlier start can have ended between the two steps.
    if is_owned_by_us(dir) {
        user.take_ownership(dir)?;
    }
    let found = fs::symlink_metadata(dir)?;
    Ok(found.is_dir()
        && found.uid() == user.uid()
        && found.mode() & 0o077 == 0
        && user.can_enter(dir))
}

/// A short, stable name for a path: FNV-1a, because the standard library's hash can change between
/// releases.
fn stable_name(path: &Path) -> String {
    let hash = path
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_name_never_changes() {
        assert_eq!(stable_name(Path::new("")), "cbf29ce484222325");
        assert_eq!(stable_name(Path::new("a")), "af63dc4c8601ec8c");
    }

    #[test]
    fn socket_path_must_be_short_and_plain() {
        assert!(is_plain(Path::new("/var/lib/harkara/run")));
        assert!(!is_plain(Path::new("/with space")));
        assert!(!is_plain(Path::new("/with,comma")));
        assert!(is_plain(Path::new(&format!("/{}", "x".repeat(84)))));
        assert!(!is_plain(Path::new(&format!("/{}", "x".repeat(85)))));
    }

    #[test]
    fn incomplete_or_empty_directory_is_not_a_cluster() {
        let data = tempfile::tempdir().unwrap();
        for name in ["postgres-15-new-7", "postgres-16", "postgres-14", "run"] {
            fs::create_dir(data.path().join(name)).unwrap();
        }
        fs::write(data.path().join("postgres-15-new-7/PG_VERSION"), "15").unwrap();
        assert!(cluster_in(data.path()).unwrap().is_none());
        fs::write(data.path().join("postgres-14/PG_VERSION"), "14").unwrap();
        assert_eq!(cluster_in(data.path()).unwrap().unwrap().major, 14);
    }
}
