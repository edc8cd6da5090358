//! Room: the data directory of `up`.
//! Takes: a path. Gives: the master key, the first keys, the address of the running database.
//! Never: lets others of the machine read a secret.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use harkara_shared::blob::BlobStore;
use harkara_shared::vault::MasterKeys;
use serde::{Deserialize, Serialize};
use url::Url;

/// The keys of the first tenant and of the operator, kept so that a second run can show them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FirstKeys {
    /// Key of the tenant `demo`.
    pub(crate) tenant: String,
    /// Key of the tenant `platform`, which may act for all others.
    pub(crate) operator: String,
}

/// A data directory.
#[derive(Debug, Clone)]
pub(crate) struct Home(PathBuf);

impl Home {
    /// Opens the directory, making it if it is missing. Others may pass through it, because a
    /// database started by root runs as another user; they cannot list it or read its files.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(path)
            .with_context(|| format!("cannot make the data directory {}", path.display()))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("cannot reach the data directory {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Where files are kept unless a setting says otherwise.
    pub(crate) fn blobs(&self) -> anyhow::Result<BlobStore> {
        let place = self.0.join("blobs");
        let url = Url::from_file_path(&place)
            .map_err(|()| anyhow::anyhow!("{} is no place for files", place.display()))?;
        Ok(BlobStore::open(&url)?)
    }

    /// The master key of this directory, made on first use.
    pub(crate) fn master_keys(&self) -> anyhow::Result<MasterKeys> {
        let text = match self.read("master.key")? {
            Some(text) => text,
            None => {
                let text = MasterKeys::generate();
                self.write("master.key", &text)?;
                text
            }
        };
        MasterKeys::parse(text.trim()).with_context(|| {
            format!(
                "{} holds no master key",
                self.0.join("master.key").display()
            )
        })
    }

    pub(crate) fn first_keys(&self) -> anyhow::Result<Option<FirstKeys>> {
        let Some(text) = self.read("keys.json")? else {
            return Ok(None);
        };
        // A file that cannot be read is replaced: keys are made anew, none is lost.
        Ok(serde_json::from_str(&text).ok())
    }

    pub(crate) fn keep_first_keys(&self, keys: &FirstKeys) -> anyhow::Result<()> {
        self.write("keys.json", &serde_json::to_string_pretty(keys)?)
    }

    /// Address of the database of the platform that runs on this directory.
    pub(crate) fn database_url(&self) -> anyhow::Result<Option<String>> {
        self.read("database.url")
    }

    pub(crate) fn keep_database_url(&self, url: &str) -> anyhow::Result<()> {
        self.write("database.url", url)
    }

    /// Address of the API of the platform that runs on this directory.
    pub(crate) fn api_url(&self) -> anyhow::Result<Option<String>> {
        self.read("api.url")
    }

    pub(crate) fn keep_api_url(&self, url: &str) -> anyhow::Result<()> {
        self.write("api.url", url)
    }

    pub(crate) fn forget_database_url(&self) {
        fs::remove_file(self.0.join("database.url")).ok();
    }

    fn read(&self, name: &str) -> anyhow::Result<Option<String>> {
        let path = self.0.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes aside and renames, so that a crash leaves the old file or the new one.
    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let (path, aside) = (self.0.join(name), self.0.join(format!("{name}.new")));
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&aside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&aside, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}
