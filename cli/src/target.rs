//! Which platform a command works on.

use std::path::PathBuf;

use clap::Args;

/// The default data directory of `harkara up`.
pub(crate) const DEFAULT_DATA_DIR: &str = ".harkara";

/// The platform a command works on: the database of `DATABASE_URL`, else the running platform of a
/// data directory.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// Data directory of a running `harkara up`, used when `DATABASE_URL` is not set
    #[arg(long, default_value = DEFAULT_DATA_DIR)]
    pub(crate) data_dir: PathBuf,
}
