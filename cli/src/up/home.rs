//! The data directory of `up`: the master key, the first keys and the addresses of the running platform.
//!
//! Other users of the machine cannot read its files.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use harkara_shared::blob::BlobStore;
use harkara_shared::vault::MasterKeys;
use serde::{Deserialize, Serialize};
use url::Url;

/// The keys of the first tenant and of the operator, stored so that later runs can show them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FirstKeys {
    /// Key of the tenant `demo`.
    pub(crate) tenant: String,
    /// Key of the tenant `platform`, which can act for all tenants.
    pub(crate) operator: String,
}

/// A data directory.
#[derive(Debug, Clone)]
pub(crate) struct Home(PathBuf);

impl Home {
    /// Opens the directory, creating it if it is missing. Other users can traverse it, because a database
    /// started by root runs as another user, but cannot list it or read its files.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(path)
            .with_context(|| format!("cannot create the data directory {}", path.display()))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("cannot reach the data directory {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The default blob store.
    pub(crate) fn blobs(&self) -> anyhow::Result<BlobStore> {
        let path = self.0.join("blobs");
        let url = Url::from_file_path(&path)
            .map_err(|()| anyhow::anyhow!("{} cannot be written as a file URL", path.display()))?;
        Ok(BlobStore::open(&url)?)
    }

    /// The master key of this directory, generated on first use.
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
                "{} does not contain a valid master key",
                self.0.join("master.key").display()
            )
        })
    }

    pub(crate) fn first_keys(&self) -> anyhow::Result<Option<FirstKeys>> {
        let Some(text) = self.read("keys.json")? else {
            return Ok(None);
        };
        // A malformed file is replaced with new keys; the old ones keep working.
        Ok(serde_json::from_str(&text).ok())
    }

    pub(crate) fn store_first_keys(&self, keys: &FirstKeys) -> anyhow::Result<()> {
        self.write("keys.json", &serde_json::to_string_pretty(keys)?)
    }

    /// Address of the running platform's database.
    pub(crate) fn database_url(&self) -> anyhow::Result<Option<String>> {
        self.read("database.url")
    }

    pub(crate) fn store_database_url(&self, url: &str) -> anyhow::Result<()> {
        self.write("database.url", url)
    }

    /// Address of the running platform's API.
    pub(crate) fn api_url(&self) -> anyhow::Result<Option<String>> {
        self.read("api.url")
    }

    pub(crate) fn store_api_url(&self, url: &str) -> anyhow::Result<()> {
        self.write("api.url", url)
    }

    pub(crate) fn remove_database_url(&self) {
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

    /// Writes a temporary file and renames it, so that a crash leaves the old file or the new one.
    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let (path, temporary) = (self.0.join(name), self.0.join(format!("{name}.new")));
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}
