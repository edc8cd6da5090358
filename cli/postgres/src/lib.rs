//! Room: the embedded database, a private PostgreSQL run from the programs already on the machine.
//! Takes: a data directory and an [`Installation`]. Gives: a running [`Cluster`] and its URLs.
//! Never: touches a cluster it did not make, listens on a network, outlives the process that
//! started it, reads the environment for its settings, or downloads anything.

mod cluster;
mod error;
mod hint;
mod installation;
mod place;
mod roles;
mod server;
mod supervisor;
mod user;

pub use cluster::{Cluster, Options, Shutdown};
pub use error::Error;
pub use installation::{Installation, OLDEST_MAJOR, discover};
