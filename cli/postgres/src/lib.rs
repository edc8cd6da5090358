//! The embedded database: a private PostgreSQL, run from the programs already on the machine.
//!
//! Takes a data directory and an [`Installation`] and runs a [`Cluster`]. It never touches a cluster it did
//! not create, listens on a network, outlives the process that started it, reads its settings from the
//! environment, or downloads anything.

mod cluster;
mod download;
mod error;
mod hint;
mod installation;
mod layout;
mod roles;
mod server;
mod supervisor;
mod user;

pub use cluster::{Cluster, Options, Shutdown};
pub use download::{Cache, DOWNLOADED_VERSION, report_to_stderr};
pub use error::Error;
pub use installation::{Installation, OLDEST_MAJOR, discover, obtain};
