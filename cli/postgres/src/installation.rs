//! Room: finding PostgreSQL's programs on this machine.
//! Takes: an optional configured directory. Gives: an [`Installation`].
//! Never: starts a server, reads the environment other than PATH, or downloads anything.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::error::Error;
use crate::hint;

/// The oldest major version of PostgreSQL that is accepted.
pub const OLDEST_MAJOR: u32 = 14;

/// Where packages put the programs: a parent, what the version's directory is called before its
/// number, and what comes below it. In this order; within one, the highest number first.
const PLACES: [(&str, &str, &str); 9] = [
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

/// PostgreSQL's programs of one version, and the other versions that were found beside them.
///
/// The others matter when a data directory was made by an older major version: it goes on with
/// the programs that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    bin: PathBuf,
    major: u32,
    version: String,
    others: Vec<Installation>,
}

impl Installation {
    /// The directory that holds `postgres` and `initdb`, links resolved.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The major version, such as 15.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The version as the server tells it, such as `15.18 (Debian 15.18-0+deb12u1)`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The installation of `major`: this one or one of those found beside it.
    pub(crate) fn of_major(&self, major: u32) -> Option<&Installation> {
        std::iter::once(self)
            .chain(&self.others)
            .find(|found| found.major == major)
    }

    /// The major versions known, for a message.
    pub(crate) fn majors(&self) -> String {
        std::iter::once(self)
            .chain(&self.others)
            .map(|found| found.major.to_string())
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Asks the programs in `bin` for their version.
    fn examine(bin: &Path) -> Result<Self, String> {
        // A link such as /usr/local/bin/postgres must be followed: the server finds its shared
        // files relative to where it really lies.
        let postgres = fs::canonicalize(bin.join("postgres"))
            .map_err(|error| format!("no program `postgres` in it ({error})"))?;
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
            return Err(format!("it is version {version}, too old"));
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
/// `configured` is a directory that holds the programs; when given, nothing else is looked at.
/// Otherwise the usual package directories are searched, the highest version first, then PATH.
/// Runs each candidate with `--version` and so blocks for some milliseconds.
///
/// # Errors
/// [`Error::Configured`] when the given directory is no good, [`Error::NotFound`] when nothing is.
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

/// The first usable candidate, carrying those of other major versions.
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

/// The packages' program directories below `root` that exist, best first.
fn packaged(root: &Path) -> Vec<PathBuf> {
    PLACES
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

/// The number a text begins with: 18 of `18beta1`, 9 of `9.6`; none of `latest`.
pub(crate) fn leading_number(text: &str) -> Option<u32> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.get(..digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_server_prints_them() {
        let debian = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        assert_eq!(parse_version(debian).unwrap().0, 15);
        assert_eq!(
            parse_version("postgres (PostgreSQL) 19devel").unwrap().0,
            19
        );
        assert_eq!(parse_version("postgres (EnterpriseDB) 15"), None);
    }

    #[test]
    fn package_directories_come_highest_version_first() {
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
    fn nothing_found_names_the_way_out_and_what_was_rejected() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("postgres"), "").unwrap();
        let error = choose([dir.path().to_path_buf()].into_iter()).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("14 or newer"), "{said}");
        assert!(said.contains("no program `initdb`"), "{said}");
        assert!(said.contains("DATABASE_URL"), "{said}");
    }

    #[test]
    fn a_configured_directory_is_never_replaced_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let error = discover(Some(dir.path())).unwrap_err();
        assert!(matches!(error, Error::Configured { .. }), "{error}");
    }
}
