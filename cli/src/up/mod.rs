//! `harkara up`: the whole platform on one machine.
//!
//! Runs database, API, worker and scheduler in one process, creates the first tenant and its key, and
//! shows a demonstration. It never touches another database cluster, and refuses to run a private one in
//! production mode.

mod admin;
mod database;
mod demo;
mod home;
mod keys;

pub(crate) use home::Home;

use anyhow::Context;
use harkara_api::ApiState;
use harkara_kind::Services;
use harkara_queue::Engine;
use harkara_shared::config::Settings;
use harkara_shared::egress::Egress;
use harkara_shared::process::{self, DATABASE_START_TIMEOUT, Readiness};
use harkara_shared::telemetry::{self, Metrics};
use sqlx::PgPool;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::output::say;
use crate::target::DEFAULT_DATA_DIR;
use database::Database;

/// Arguments of `harkara up`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UpArgs {
    /// Port of the API on 127.0.0.1; by default `HARKARA_API_ADDR` applies
    #[arg(long)]
    port: Option<u16>,
    /// Directory of the private database and the keys
    #[arg(long, default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// Skip the demonstration
    #[arg(long)]
    no_demo: bool,
}

impl Default for UpArgs {
    fn default() -> Self {
        Self {
            port: None,
            data_dir: DEFAULT_DATA_DIR.into(),
            no_demo: false,
        }
    }
}

/// Runs until Ctrl-C and the drain after it.
pub(crate) async fn run(args: UpArgs, mut settings: Settings) -> anyhow::Result<()> {
    if !settings.log_was_set {
        // `up` prints for a person; by default the log shows only what needs attention.
        "warn".clone_into(&mut settings.log);
    }
    telemetry::start_log(&settings);
    let _metrics = Metrics::global();
    let stop = process::stop_on_signal()?;
    if let Some(port) = args.port {
        settings.api_addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    }
    if !settings.egress_allow_was_set {
        settings.egress_allow = vec!["127.0.0.0/8".parse()?];
    }
    let listener = process::bind(settings.api_addr).await?;
    let home = Home::open(&args.data_dir)?;
    say(&format!("Harkara {}\n", env!("CARGO_PKG_VERSION")));
    let database = tokio::select! {
        database = Database::start(&settings, &home) => database?,
        () = stop.cancelled() => return Ok(()),
    };
    let platform = Platform {
        args,
        settings,
        home,
        stop: stop.clone(),
    };
    let result = platform.run(listener, &database).await;
    stop.cancel();
    database.stop().await?;
    say("stopped");
    result
}

struct Platform {
    args: UpArgs,
    settings: Settings,
    home: Home,
    stop: CancellationToken,
}

impl Platform {
    /// Runs all parts until `stop`, or until one of them ends unexpectedly, then drains them.
    async fn run(
        self,
        listener: tokio::net::TcpListener,
        database: &Database,
    ) -> anyhow::Result<()> {
        let settings = &self.settings;
        let pool = harkara_shared::database::pool(&database.settings, "harkara-up")?;
        harkara_shared::database::wait_until_reachable(&pool, DATABASE_START_TIMEOUT).await?;
        let migrated = harkara_shared::database::migrate(&pool).await;
        if database.is_private() {
            migrated.with_context(|| {
                format!(
                    "the database in {} cannot be migrated (another --data-dir begins with a new one)",
                    self.args.data_dir.display()
                )
            })?;
        } else {
            migrated?;
        }
        let master = match settings.master_keys.clone() {
            Some(keys) => keys,
            None => self.home.master_keys()?,
        };
        let first = keys::first_keys(&pool, &master, &self.home).await?;
        let egress = Egress::new(settings.egress_allow.clone())?;
        let blobs = match settings.blobs() {
            Some(blobs) => Some(blobs),
            None => Some(self.home.blobs()?),
        };
        let address = listener.local_addr().context("the API's address")?;
        let state = ApiState::new(
            pool.clone(),
            Engine::new(pool.clone(), settings.notify),
            master.clone(),
            egress.clone(),
            Readiness::for_database(pool.clone(), self.stop.clone()),
            settings.http.clone(),
        )
        .with_blobs(blobs.clone());
        let handlers = harkara_shared::database::pool(&database.settings, "harkara-worker")?;
        let engine = harkara_worker::engine(settings, &database.settings)?;
        let services = Services {
            engine,
            pool: handlers.clone(),
            keys: master.clone(),
            egress,
            blobs: blobs.clone(),
        };
        let engines = services.engine.pool().clone();

        let mut parts: JoinSet<(&str, anyhow::Result<()>)> = JoinSet::new();
        let stop = self.stop.clone();
        let scheduler = harkara_scheduler::schedule(services.engine.clone(), stop.clone());
        parts.spawn(async {
            ("scheduler", {
                scheduler.await;
                Ok(())
            })
        });
        let (worker_settings, worker_stop) = (settings.clone(), stop.clone());
        parts.spawn(async move {
            let worked = harkara_worker::work(&worker_settings, services, worker_stop).await;
            ("worker", worked.map_err(anyhow::Error::from))
        });
        let api = harkara_api::serve(listener, state, stop.clone());
        parts.spawn(async { ("api", api.await) });

        let base = format!("http://{address}");
        self.home.store_api_url(&base)?;
        let public_url = match &settings.http.public_url {
            Some(url) => url.to_string(),
            None => base.clone(),
        };
        if let Some(link) = admin::admin_link(&pool).await? {
            say(&format!(
                "  sign in    {}  (as {}, once, within 15 minutes)",
                link.url(&public_url),
                admin::EMAIL
            ));
        }
        say(&format!(
            "  API        {base}  (description at /openapi.json, metrics at /metrics)\n  \
             tenant     demo      key {}\n  operator   platform  key {}\n",
            first.tenant, first.operator
        ));
        let display = self.show(&base, &first.tenant, &pool);
        let ended = tokio::select! {
            ended = parts.join_next() => ended,
            () = display => None,
        };
        let failure = match ended {
            Some(Ok((_, Ok(())))) | None if stop.is_cancelled() => None,
            Some(Ok((part, Ok(())))) => Some(anyhow::anyhow!("the {part} ended unexpectedly")),
            Some(Ok((part, Err(error)))) => Some(error.context(format!("the {part}"))),
            Some(Err(error)) => Some(error.into()),
            None => None,
        };
        say("stopping; jobs in flight can finish");
        stop.cancel();
        if let Err(error) = demo::remove_endpoints(&pool).await {
            tracing::warn!(%error, "could not remove the demonstration's endpoint");
        }
        let drained = async { while parts.join_next().await.is_some() {} };
        if tokio::time::timeout(settings.drain + harkara_worker::STOP_MARGIN, drained)
            .await
            .is_err()
        {
            tracing::warn!("a part of the platform did not stop in time");
        }
        for pool in [&engines, &handlers, &pool] {
            harkara_shared::database::close(pool).await;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Shows the demonstration, then that the platform is running, until `stop`.
    async fn show(&self, base: &str, key: &str, pool: &PgPool) {
        if !self.args.no_demo {
            let demo = demo::show(base, key, pool, self.stop.clone());
            tokio::select! {
                shown = demo => if let Err(error) = shown {
                    say(&format!("             the demonstration failed: {error:#}\n"));
                },
                () = self.stop.cancelled() => return,
            }
        }
        say(&format!(
            "  try        curl -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\\n  \
             \x20            -d '{{\"type\":\"demo.greeted\",\"data\":{{\"hello\":\"world\"}}}}' {base}/v1/events\n\n\
             Running. Ctrl-C stops everything.",
        ));
        self.stop.cancelled().await;
    }
}
