//! Finds PostgreSQL's programs on this machine.
//!
//! No server is started, nothing is downloaded, and of the environment only PATH is read.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::download::Cache;
use crate::error::Error;
use crate::hint;

/// The oldest major version of PostgreSQL that is accepted.
pub const OLDEST_MAJOR: u32 = 14;

/// Where packages install the programs: parent directory, prefix of the version's directory before its
/// number, and subdirectory. Searched in this order; within an entry, highest number first.
const PACKAGE_DIRECTORIES: [(&str, &str, &str); 9] = [
    ("usr/lib/postgresql", "", "bin"),          // Debian, Ubuntu
    ("usr", "pgsql-", "bin"),                   // PostgreSQL's own RPMs
    ("usr/lib", "postgresql", "bin"),           // SUSE
    ("usr/libexec", "postgresql", ""),          // Alpine
    ("opt/homebrew/opt", "postgresql@", "bin"), // Homebrew, Apple silicon
    ("usr/local/opt", "postgresql@", "bin"),    // Homebrew, Intel
    ("home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),
    ("Applications/Postgres.app/Contents/Versions", "", "bin"),
    ("opt/local/lib", "postgresql", "bin"), // MacPorts
];

/// PostgreSQL's programs of one version, and the other versions found on the machine.
///
/// The others matter for a data directory created by an older major version, which continues to use that
/// version's programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    bin: PathBuf,
    major: u32,
    version: String,
    others: Vec<Installation>,
}

impl Installation {
    /// The directory that contains `postgres` and `initdb`, with symbolic links resolved.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The major version, such as 15.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The version as the server prints it, such as `15.18 (Debian 15.18-0+deb12u1)`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The installation of `major`: this one or one of the others.
    pub(crate) fn of_major(&self, major: u32) -> Option<&Installation> {
        std::iter::once(self)
            .chain(&self.others)
            .find(|found| found.major == major)
    }

    /// All major versions found, for messages.
    pub(crate) fn majors(&self) -> String {
        std::iter::once(self)
            .chain(&self.others)
            .map(|found| found.major.to_string())
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Runs `postgres --version` in `bin`.
    pub(crate) fn examine(bin: &Path) -> Result<Self, String> {
        // Symbolic links must be resolved: the server finds its shared files relative to its real location.
        let postgres = fs::canonicalize(bin.join("postgres"))
            .map_err(|error| format!("it contains no program `postgres` ({error})"))?;
        // A canonical path of a file always has a parent.
        let bin = postgres.parent().unwrap_or(bin).to_path_buf();
        if !bin.join("initdb").exists() {
            return Err(format!("no program `initdb` in {}", bin.display()));
        }
        let output = Command::new(&postgres)
            .arg("--version")
            .output()
            .map_err(|error| format!("`postgres --version` cannot be run ({error})"))?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let (major, version) = parse_version(&printed)
            .ok_or_else(|| format!("`postgres --version` printed {:?}", printed.trim()))?;
        if major < OLDEST_MAJOR {
            return Err(format!("version {version} is too old"));
        }
        Ok(Self {
            bin,
            major,
            version,
            others: Vec::new(),
        })
    }
}

/// Finds PostgreSQL, version [`OLDEST_MAJOR`] or newer.
///
/// `configured` is a directory with the programs; if given, no other directory is examined. Otherwise the
/// usual package directories are searched, highest version first, then PATH. Runs each candidate with
/// `--version`, which blocks for some milliseconds.
///
/// # Errors
/// [`Error::Configured`] when the given directory is not usable, [`Error::NotFound`] when no directory is.
pub fn discover(configured: Option<&Path>) -> Result<Installation, Error> {
    if let Some(bin) = configured {
        return Installation::examine(bin).map_err(|reason| Error::Configured {
            bin: bin.to_path_buf(),
            reason,
        });
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let candidates = packaged(Path::new("/"))
        .into_iter()
        .chain(env::split_paths(&path));
    choose(candidates)
}

/// Finds PostgreSQL as [`discover`] does, or else downloads it into the user's cache, once.
///
/// `report` receives sentences for the person who waits for a download.
///
/// # Errors
/// As [`discover`] and [`Cache::installation`].
pub async fn obtain(
    configured: Option<&Path>,
    report: impl Fn(&str),
) -> Result<Installation, Error> {
    match (discover(configured), Cache::of_user()) {
        (Err(Error::NotFound { .. }), Some(cache)) => cache.installation(report).await,
        (found, _) => found,
    }
}

/// The first usable candidate, together with those of other major versions.
fn choose(candidates: impl Iterator<Item = PathBuf>) -> Result<Installation, Error> {
    let mut found: Vec<Installation> = Vec::new();
    let mut seen = String::new();
    for bin in candidates.filter(|bin| bin.join("postgres").exists()) {
        match Installation::examine(&bin) {
            Ok(usable) if found.iter().all(|known| known.major != usable.major) => {
                found.push(usable);
            }
            Ok(_) => {}
            Err(reason) => seen = format!("{seen} (in {}: {reason})", bin.display()),
        }
    }
    let mut found = found.into_iter();
    match found.next() {
        Some(first) => Ok(Installation {
            others: found.collect(),
            ..first
        }),
        None => Err(Error::NotFound {
            oldest: OLDEST_MAJOR,
            seen,
            hint: hint::install(),
        }),
    }
}

/// The existing package directories below `root`, in order of preference.
fn packaged(root: &Path) -> Vec<PathBuf> {
    PACKAGE_DIRECTORIES
        .iter()
        .flat_map(|&(parent, prefix, below)| {
            let mut versions: Vec<_> = fs::read_dir(root.join(parent))
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|entry| {
                    let name = entry.file_name();
                    let number = name.to_str()?.strip_prefix(prefix)?;
                    Some((leading_number(number)?, entry.path().join(below)))
                })
                .collect();
            versions.sort_by_key(|(number, _)| Reverse(*number));
            versions.into_iter().map(|(_, bin)| bin)
        })
        .collect()
}

/// `postgres (PostgreSQL) 15.18 (Debian …)` to `(15, "15.18 (Debian …)")`.
fn parse_version(printed: &str) -> Option<(u32, String)> {
    let version = printed.trim().strip_prefix("postgres (PostgreSQL) ")?;
    Some((leading_number(version)?, version.to_owned()))
}

/// The number at the start of a text: 18 for `18beta1`, 9 for `9.6`, none for `latest`.
pub(crate) fn leading_number(text: &str) -> Option<u32> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.get(..digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_version_is_parsed() {
        let debian = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        assert_eq!(parse_version(debian).unwrap().0, 15);
        assert_eq!(
            parse_version("postgres (PostgreSQL) 19devel").unwrap().0,
            19
        );
        assert_eq!(parse_version("postgres (EnterpriseDB) 15"), None);
    }

    #[test]
    fn package_directories_are_sorted_by_version() {
        let root = tempfile::tempdir().unwrap();
        for dir in [
            "usr/lib/postgresql/9.6/bin",
            "usr/lib/postgresql/15/bin",
            "usr/pgsql-17/bin",
            "usr/lib/postgresql/not-a-version/bin",
        ] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let found: Vec<_> = packaged(root.path())
            .into_iter()
            .map(|bin| bin.strip_prefix(root.path()).unwrap().to_owned())
            .collect();
        assert_eq!(
            found,
            [
                Path::new("usr/lib/postgresql/15/bin"),
                Path::new("usr/lib/postgresql/9.6/bin"),
                Path::new("usr/pgsql-17/bin"),
            ]
        );
    }

    #[test]
    fn missing_postgres_is_reported_with_remedy_and_rejections() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("postgres"), "").unwrap();
        let error = choose([dir.path().to_path_buf()].into_iter()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("14 or newer"), "{message}");
        assert!(message.contains("no program `initdb`"), "{message}");
        assert!(message.contains("DATABASE_URL"), "{message}");
    }

    #[test]
    fn configured_directory_has_no_fallback() {
        let dir = tempfile::tempdir().unwrap();
        let error = discover(Some(dir.path())).unwrap_err();
        assert!(matches!(error, Error::Configured { .. }), "{error}");
    }
}
