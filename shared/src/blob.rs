//! The blob store: files kept outside the database, under `HARKARA_BLOB_URL`.
//!
//! Stores bytes under keys, returns them whole or not at all, and lists keys. A partly written file is
//! never visible under its key, and no key reaches outside the store's directory.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use url::Url;

/// First character of the name of a file that is still being written; no key segment starts with it.
const TEMPORARY_PREFIX: char = '.';

/// The longest key, in bytes.
const MAX_KEY_LEN: usize = 512;

/// Why an operation on the store failed.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The store's address is not usable.
    #[error("{0}")]
    Address(&'static str),
    /// The key is malformed.
    #[error(
        "`{0}` is not a blob key: expected segments of letters, digits and `-_.`, separated by `/`"
    )]
    Key(String),
    /// The file system failed.
    #[error("the blob store failed at `{key}`: {source}")]
    Io {
        /// The key or prefix of the operation.
        key: String,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// A store of blobs in a directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BlobStore {
    root: Arc<Path>,
}

impl BlobStore {
    /// Opens the store at this address. Its directory is created by the first write.
    ///
    /// # Errors
    /// [`BlobError::Address`] for anything but `file:///…`.
    pub fn open(url: &Url) -> Result<Self, BlobError> {
        match url.scheme() {
            "file" => {
                let root = url
                    .to_file_path()
                    .map_err(|()| BlobError::Address("must be `file:///` followed by a path"))?;
                Ok(Self { root: root.into() })
            }
            "s3" => Err(BlobError::Address(
                "`s3://` stores are not supported yet: use `file:///`",
            )),
            _ => Err(BlobError::Address("must start with `file:///`")),
        }
    }

    /// Stores `bytes` under `key`, replacing an earlier blob. They are on disk when this returns.
    ///
    /// # Errors
    /// [`BlobError`].
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), BlobError> {
        let path = self.path(key)?;
        blocking(key, move || write(&path, &bytes)).await
    }

    /// The blob stored under `key`, if any.
    ///
    /// # Errors
    /// [`BlobError`].
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, BlobError> {
        let path = self.path(key)?;
        blocking(key, move || match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    /// All keys below `prefix`, sorted. A prefix consists of whole segments.
    ///
    /// # Errors
    /// [`BlobError`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, BlobError> {
        let path = self.path(prefix)?;
        let root_prefix = prefix.to_owned();
        blocking(prefix, move || {
            let mut found = Vec::new();
            collect_keys(&path, &root_prefix, &mut found)?;
            found.sort();
            Ok(found)
        })
        .await
    }

    fn path(&self, key: &str) -> Result<PathBuf, BlobError> {
        let is_segment = |segment: &str| {
            !segment.is_empty()
                && !segment.starts_with(TEMPORARY_PREFIX)
                && segment
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        if key.len() > MAX_KEY_LEN || !key.split('/').all(is_segment) {
            return Err(BlobError::Key(key.to_owned()));
        }
        Ok(self.root.join(key))
    }
}

/// Runs blocking work off the async threads.
async fn blocking<T: Send + 'static>(
    key: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BlobError> {
    let result = tokio::task::spawn_blocking(work).await;
    result
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|source| BlobError::Io {
            key: key.to_owned(),
            source,
        })
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    create_directory(directory)?;
    let mut file = tempfile::Builder::new()
        .prefix(&TEMPORARY_PREFIX.to_string())
        .tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(directory)?.sync_all()
}

/// Creates a directory and its parents, syncing each parent so that the entry survives a power cut.
fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let Some(parent) = directory.parent() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    create_directory(parent)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    File::open(parent)?.sync_all()
}

fn collect_keys(directory: &Path, key: &str, found: &mut Vec<String>) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name
            .to_str()
            .filter(|name| !name.starts_with(TEMPORARY_PREFIX))
        else {
            continue;
        };
        let below = format!("{key}/{name}");
        if entry.file_type()?.is_dir() {
            collect_keys(&entry.path(), &below, found)?;
        } else {
            found.push(below);
        }
    }
    Ok(())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, BlobStore) {
        let directory = tempfile::tempdir().unwrap();
        let url = Url::from_file_path(directory.path().join("blobs")).unwrap();
        (directory, BlobStore::open(&url).unwrap())
    }

    #[tokio::test]
    async fn stored_blobs_are_returned_and_listed_in_order() {
        let (_directory, blobs) = store();
        assert_eq!(blobs.list("a").await.unwrap(), Vec::<String>::new());
        assert_eq!(blobs.get("a/b").await.unwrap(), None);
        for key in ["a/b/2.json", "a/b/1.json", "a/c", "d/e"] {
            blobs.put(key, Bytes::from(key.to_owned())).await.unwrap();
        }
        blobs.put("a/c", Bytes::from("new")).await.unwrap();
        assert_eq!(
            blobs.list("a").await.unwrap(),
            ["a/b/1.json", "a/b/2.json", "a/c"]
        );
        assert_eq!(blobs.get("a/c").await.unwrap(), Some(Bytes::from("new")));
        let directory = blobs.get("a/b").await.unwrap_err();
        assert!(
            directory
                .to_string()
                .starts_with("the blob store failed at `a/b`")
        );
    }

    #[tokio::test]
    async fn key_cannot_leave_the_store() {
        let (directory, blobs) = store();
        fs::write(directory.path().join("secret"), "secret").unwrap();
        for key in [
            "",
            "/",
            "/etc/passwd",
            "../secret",
            "a/../../secret",
            "a//b",
            "a/",
            "a\\b",
            "a/.b",
            ".",
            "a b",
            "ä",
            "a\0b",
        ] {
            assert!(
                matches!(blobs.get(key).await, Err(BlobError::Key(_))),
                "{key}"
            );
            let put = blobs.put(key, Bytes::new()).await;
            assert!(matches!(put, Err(BlobError::Key(_))), "{key}");
            let listed = blobs.list(key).await;
            assert!(matches!(listed, Err(BlobError::Key(_))), "{key}");
        }
        let long = "a".repeat(MAX_KEY_LEN + 1);
        assert!(matches!(blobs.get(&long).await, Err(BlobError::Key(_))));
    }

    #[tokio::test]
    async fn unfinished_write_is_not_visible() {
        let (directory, blobs) = store();
        blobs.put("a/b", Bytes::from("whole")).await.unwrap();
        fs::write(directory.path().join("blobs/a/.half"), "ha").unwrap();
        assert_eq!(blobs.list("a").await.unwrap(), ["a/b"]);
    }

    #[test]
    fn unusable_address_is_rejected_with_its_reason() {
        for (url, reason) in [
            ("s3://bucket/prefix", "not supported yet"),
            ("http://example.com/", "must start with `file:///`"),
            ("file://elsewhere/a", "followed by a path"),
        ] {
            let error = BlobStore::open(&url.parse().unwrap()).unwrap_err();
            assert!(error.to_string().contains(reason), "{url}: {error}");
        }
    }
}
