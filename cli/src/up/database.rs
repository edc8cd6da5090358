//! The database of `up`: that of `DATABASE_URL`, else a private one that runs until [`Database::stop`].
//!
//! A private cluster is never started in production mode.

use std::path::Path;

use anyhow::Context;
use harkara_postgres::{Cluster, Options, Shutdown, obtain};
use harkara_shared::config::Settings;
use harkara_shared::database::DatabaseSettings;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::home::Home;
use crate::output::say;

/// A private database that runs here, or an external one.
pub(super) struct Database {
    pub(super) settings: DatabaseSettings,
    private: Option<PrivateDatabase>,
}

struct PrivateDatabase {
    home: Home,
    done: CancellationToken,
    watch: JoinHandle<anyhow::Result<()>>,
}

impl Database {
    /// Whether it is a cluster in the data directory.
    pub(super) fn is_private(&self) -> bool {
        self.private.is_some()
    }

    pub(super) async fn start(settings: &Settings, home: &Home) -> anyhow::Result<Self> {
        if let Some(given) = &settings.database {
            say("  database   as configured in DATABASE_URL");
            return Ok(Self {
                settings: given.clone(),
                private: None,
            });
        }
        anyhow::ensure!(
            !settings.production,
            "HARKARA_PRODUCTION is on and DATABASE_URL is not set: a private database is for \
             development only"
        );
        let installation = obtain(settings.pg_bin.as_deref().map(Path::new), |line| {
            say(&format!("  note       {line}"));
        })
        .await?;
        let version = installation.version().to_owned();
        let cluster = Cluster::start(Options::new(home.path(), installation)).await?;
        for notice in cluster.notices() {
            say(&format!("  note       {notice}"));
        }
        say(&format!(
            "  database   PostgreSQL {version}, private, in {}",
            cluster.data_dir().display()
        ));
        let url = cluster.url();
        home.store_database_url(&url)?;
        let done = CancellationToken::new();
        let watch = tokio::spawn(watch(cluster, done.clone()));
        Ok(Self {
            settings: DatabaseSettings::new(url),
            private: Some(PrivateDatabase {
                home: home.clone(),
                done,
                watch,
            }),
        })
    }

    /// Stops a private database. Call it after all users of the database have stopped.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        let Some(private) = self.private else {
            return Ok(());
        };
        private.home.remove_database_url();
        private.done.cancel();
        private.watch.await.context("the private database")?
    }
}

/// Restarts a private server that ends unexpectedly, for example when killed for its memory use.
async fn watch(mut cluster: Cluster, done: CancellationToken) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = done.cancelled() => break,
            () = cluster.exited() => {}
        }
        tracing::error!("the private database ended unexpectedly; restarting it");
        while let Err(error) = cluster.restart().await {
            tracing::error!(%error, "the private database did not start; retrying");
            tokio::select! {
                () = done.cancelled() => return Ok(()),
                () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
            }
        }
    }
    cluster
        .stop(Shutdown::Fast)
        .await
        .context("stopping the private database")
}
