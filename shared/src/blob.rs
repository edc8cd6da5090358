//! Room: the blob store: files that outlive the database.
//! Takes: an address (`HARKARA_BLOB_URL`), keys and bytes. Gives: the bytes back, whole or not at all, and
//! the keys there are. Never: leaves a file half written under its key, or its own directory.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use url::Url;

/// What the name of a file begins with while it is being written: no part of a key does.
const UNFINISHED: char = '.';

/// Longest key.
const MOST_LENGTH: usize = 512;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The address cannot be used.
    #[error("{0}")]
    Address(&'static str),
    /// The key is not one.
    #[error("`{0}` is not a key: parts of letters, digits and `-_.`, divided by `/`")]
    Key(String),
    /// The store refuses, or is not there.
    #[error("the blob store failed at `{key}`: {source}")]
    Io {
        /// What was wanted.
        key: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A place where blobs are kept. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BlobStore {
    root: Arc<Path>,
}

impl BlobStore {
    /// The store at this address. It is made when something is put there.
    ///
    /// # Errors
    /// [`BlobError::Address`] for anything but `file:///…`.
    pub fn open(url: &Url) -> Result<Self, BlobError> {
        match url.scheme() {
            "file" => {
                let root = url
                    .to_file_path()
                    .map_err(|()| BlobError::Address("must be `file:///` and a path"))?;
                Ok(Self { root: root.into() })
            }
            "s3" => Err(BlobError::Address(
                "`s3://` stores come with backups, which this release does not have: use `file:///`",
            )),
            _ => Err(BlobError::Address("must begin with `file:///`")),
        }
    }

    /// Keeps `bytes` under `key`, in the place of what was there. When this returns they are on the disk.
    ///
    /// # Errors
    /// [`BlobError`].
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), BlobError> {
        let path = self.path(key)?;
        blocking(key, move || write(&path, &bytes)).await
    }

    /// What is kept under `key`, if anything is.
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

    /// All keys below `prefix`, which ends where a part of a key does; sorted.
    ///
    /// # Errors
    /// [`BlobError`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, BlobError> {
        let path = self.path(prefix)?;
        let prefix_of_all = prefix.to_owned();
        blocking(prefix, move || {
            let mut found = Vec::new();
            collect(&path, &prefix_of_all, &mut found)?;
            found.sort();
            Ok(found)
        })
        .await
    }

    fn path(&self, key: &str) -> Result<PathBuf, BlobError> {
        let is_part = |part: &str| {
            !part.is_empty()
                && !part.starts_with(UNFINISHED)
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        if key.len() > MOST_LENGTH || !key.split('/').all(is_part) {
            return Err(BlobError::Key(key.to_owned()));
        }
        Ok(self.root.join(key))
    }
}

/// Does slow work where it holds nobody up.
async fn blocking<T: Send + 'static>(
    key: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BlobError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|source| BlobError::Io {
            key: key.to_owned(),
            source,
        })
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    make(directory)?;
    let mut file = tempfile::Builder::new()
        .prefix(&UNFINISHED.to_string())
        .tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(directory)?.sync_all()
}

/// Makes a directory and those above it, each written down in the one that holds it.
fn make(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let Some(above) = directory.parent() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    make(above)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    File::open(above)?.sync_all()
}

fn collect(directory: &Path, key: &str, found: &mut Vec<String>) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !name.starts_with(UNFINISHED)) else {
            continue;
        };
        let below = format!("{key}/{name}");
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &below, found)?;
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
    async fn what_is_put_is_there_and_is_listed_in_order() {
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
    async fn a_key_leads_nowhere_else() {
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
        let long = "a".repeat(MOST_LENGTH + 1);
        assert!(matches!(blobs.get(&long).await, Err(BlobError::Key(_))));
    }

    #[tokio::test]
    async fn what_was_not_written_to_its_end_is_not_there() {
        let (directory, blobs) = store();
        blobs.put("a/b", Bytes::from("whole")).await.unwrap();
        fs::write(directory.path().join("blobs/a/.half"), "ha").unwrap();
        assert_eq!(blobs.list("a").await.unwrap(), ["a/b"]);
    }

    #[test]
    fn an_address_that_will_not_do_says_why() {
        for (url, reason) in [
            ("s3://bucket/prefix", "come with backups"),
            ("http://example.com/", "must begin with `file:///`"),
            ("file://elsewhere/a", "and a path"),
        ] {
            let error = BlobStore::open(&url.parse().unwrap()).unwrap_err();
            assert!(error.to_string().contains(reason), "{url}: {error}");
        }
    }
}
