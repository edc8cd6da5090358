//! Room: where the embedded database lies.
//! Takes: the data directory asked for and the programs found. Gives: a [`Place`]: the directories,
//! the account and the programs that belong together.
//! Never: removes anything, or hands a directory that exists to another account.

use std::env;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf, absolute};

use crate::error::{Doing, Error};
use crate::installation::Installation;
use crate::user::ServerUser;

/// The port that names the socket; nothing listens on a network.
pub(crate) const PORT: u16 = 5432;

/// The longest path of a socket's directory, in bytes: the socket must stay below 100, because
/// systems give a socket's address 104 to 108 bytes in all.
const SOCKET_DIRECTORY_LIMIT: usize = 100 - "/.s.PGSQL.5432".len() - 1;

/// The directories, account and programs of one cluster.
#[derive(Debug)]
pub(crate) struct Place {
    /// The data directory, links resolved. It may hold other things of Harkara's.
    pub(crate) data: PathBuf,
    /// The cluster itself, `postgres-<major>` in the data directory; it may not exist yet.
    pub(crate) cluster: PathBuf,
    /// The private directory of the server's socket.
    pub(crate) socket: PathBuf,
    pub(crate) user: ServerUser,
    pub(crate) installation: Installation,
    /// What is not as asked for, in sentences for the person who started us.
    pub(crate) notices: Vec<String>,
}

/// A cluster's directory and the major version that made it.
struct Made {
    directory: PathBuf,
    major: u32,
}

impl Place {
    /// Decides where the cluster of `requested` lies, and makes the directories around it.
    pub(crate) fn find(requested: &Path, found: &Installation) -> Result<Self, Error> {
        let mut notices = Vec::new();
        let (data, made, user) = reachable(requested, &mut notices)?;
        let installation = match &made {
            None => found,
            Some(made) => found
                .of_major(made.major)
                .ok_or_else(|| Error::OtherMajor {
                    cluster: made.directory.clone(),
                    made_by: made.major,
                    found: found.majors(),
                })?,
        };
        if installation.major() != found.major() {
            notices.push(format!(
                "the data was made by PostgreSQL {}, so its programs are used, not those of {}",
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

    /// The file the server writes its process id and state to.
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.cluster.join("postmaster.pid")
    }

    /// The directories to remove when nothing of the cluster is to be kept.
    pub(crate) fn all_directories(&self) -> [PathBuf; 2] {
        [self.data.clone(), self.socket.clone()]
    }
}

/// The data directory to use, the cluster in it, and the account that can reach it.
fn reachable(
    requested: &Path,
    notices: &mut Vec<String>,
) -> Result<(PathBuf, Option<Made>, ServerUser), Error> {
    let requested = absolute(requested).doing("resolve", requested)?;
    for candidate in candidates(&requested) {
        let made = cluster_in(&candidate)?;
        let user = match &made {
            Some(made) => {
                let metadata =
                    fs::symlink_metadata(&made.directory).doing("look at", &made.directory)?;
                ServerUser::for_cluster(&made.directory, &metadata)?
            }
            None => ServerUser::for_new_cluster()?,
        };
        if can_use(&candidate, &user) && (candidate == requested || is_ours(&candidate)) {
            let data = fs::canonicalize(&candidate).doing("resolve", &candidate)?;
            if candidate != requested {
                notices.push(format!(
                    "{} cannot be reached by {}, which runs the database; its data is in {}",
                    requested.display(),
                    user.name(),
                    data.display()
                ));
            }
            return Ok((data, made, user));
        }
        // Going elsewhere would look as if the data were lost.
        if made.is_some() {
            break;
        }
    }
    Err(Error::DataUnreachable {
        data_dir: requested,
        user: ServerUser::for_new_cluster()?.name().to_owned(),
    })
}

/// The places for the data, best first. Only root, which must hand the server to another account,
/// has more than the one asked for; their names are the same at every start.
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
fn cluster_in(data: &Path) -> Result<Option<Made>, Error> {
    let entries = match fs::read_dir(data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.doing("read", data)?,
    };
    Ok(entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let major = name.to_str()?.strip_prefix("postgres-")?.parse().ok()?;
            let directory = entry.path();
            // A directory we may not look into counts: its owner will be told apart later.
            let empty = matches!(directory.join("PG_VERSION").try_exists(), Ok(false));
            (!empty).then_some(Made { directory, major })
        })
        .max_by_key(|made| made.major))
}

/// Whether the account can enter `dir`, which is made if it is missing. Nothing is made where it
/// would be of no use.
fn can_use(dir: &Path, user: &ServerUser) -> bool {
    let nearest = dir.ancestors().find(|parent| parent.is_dir());
    nearest.is_some_and(|parent| user.can_enter(parent))
        && make_directory(dir).is_ok()
        && user.can_enter(dir)
}

/// Makes a directory and its parents. What root makes can be passed through by the server's
/// account, whatever the file mode mask says, but not listed.
fn make_directory(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_directory(parent)?;
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

/// Whether a directory with a name that others can guess really is ours.
fn is_ours(dir: &Path) -> bool {
    let ourselves = rustix::process::geteuid().as_raw();
    fs::symlink_metadata(dir).is_ok_and(|found| found.is_dir() && found.uid() == ourselves)
}

/// A private directory for the socket with a short, plain path: in the data directory, else in a
/// temporary one, always the same for the same data.
fn socket_directory(data: &Path, user: &ServerUser) -> Result<PathBuf, Error> {
    let short = format!("harkara-{}", stable_name(data));
    [
        data.join("run"),
        env::temp_dir().join(&short),
        Path::new("/tmp").join(&short),
    ]
    .into_iter()
    .find(|dir| is_plain(dir) && make_private(dir, user).unwrap_or(false))
    .ok_or(Error::NoSocketDirectory {
        limit: SOCKET_DIRECTORY_LIMIT,
    })
}

/// Whether a path can stand in the server's settings and in a URL as it is, and is short enough.
fn is_plain(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.len() <= SOCKET_DIRECTORY_LIMIT
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(byte))
}

/// Makes `dir` for the account alone; false if it exists and is not so.
fn make_private(dir: &Path, user: &ServerUser) -> io::Result<bool> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    // Also when it existed: an earlier start may have ended between the two steps.
    if is_ours(dir) {
        user.give(dir)?;
    }
    let found = fs::symlink_metadata(dir)?;
    Ok(found.is_dir()
        && found.uid() == user.uid()
        && found.mode() & 0o077 == 0
        && user.can_enter(dir))
}

/// A short name for a path that never changes: FNV-1a, because the standard library's hash may
/// differ between its releases.
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
    fn the_name_of_a_path_never_changes() {
        assert_eq!(stable_name(Path::new("")), "cbf29ce484222325");
        assert_eq!(stable_name(Path::new("a")), "af63dc4c8601ec8c");
    }

    #[test]
    fn only_short_plain_paths_carry_a_socket() {
        assert!(is_plain(Path::new("/var/lib/harkara/run")));
        assert!(!is_plain(Path::new("/with space")));
        assert!(!is_plain(Path::new("/with,comma")));
        assert!(is_plain(Path::new(&format!("/{}", "x".repeat(84)))));
        assert!(!is_plain(Path::new(&format!("/{}", "x".repeat(85)))));
    }

    #[test]
    fn a_half_made_or_empty_directory_is_no_cluster() {
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
