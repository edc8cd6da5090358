//! Room: the whole platform on one machine.
//! Takes: a data directory or `DATABASE_URL`. Gives: database, API, worker and scheduler in one
//! process, the first tenant and its key, a demonstration. Never: touches another database cluster,
//! or runs a private one where production is declared.

mod database;
mod demo;
mod home;
mod keys;

pub(crate) use home::Home;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use harkara_api::ApiState;
use harkara_jobs::Services;
use harkara_queue::Engine;
use harkara_shared::config::{DEFAULT_LOG, Settings};
use harkara_shared::database::DatabaseSettings;
use harkara_shared::egress::Egress;
use harkara_shared::process::{self, DATABASE_PATIENCE, Readiness};
use harkara_shared::telemetry::{self, Metrics};
use tokio_util::sync::CancellationToken;

use crate::UpArgs;
use database::Database;

/// Runs until Ctrl-C and the drain after it.
pub(crate) async fn run(args: UpArgs, mut settings: Settings) -> anyhow::Result<()> {
    if settings.log == DEFAULT_LOG {
        // What `up` prints is for a person; the log keeps to what needs attention.
        "warn".clone_into(&mut settings.log);
    }
    telemetry::start_log(&settings);
    let _metrics = Metrics::of_process();
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
        home: home.clone(),
        stop: stop.clone(),
    };
    let result = platform.run(listener, &database).await;
    home.forget_database_url();
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
    async fn run(
        self,
        listener: tokio::net::TcpListener,
        database: &Database,
    ) -> anyhow::Result<()> {
        let settings = &self.settings;
        let pool = harkara_shared::database::pool(&database.settings, "harkara-up")?;
        harkara_shared::database::wait_until_reachable(&pool, DATABASE_PATIENCE).await?;
        harkara_shared::database::migrate(&pool).await?;
        let master = match settings.master_keys.clone() {
            Some(keys) => keys,
            None => self.home.master_keys()?,
        };
        let first = keys::first_keys(&pool, &master, &self.home).await?;
        let egress = Egress::new(settings.egress_allow.clone())?;
        let address = listener.local_addr().context("the API's address")?;
        let state = ApiState::new(
            pool.clone(),
            Engine::new(pool.clone(), settings.notify),
            master.clone(),
            egress.clone(),
            Readiness::of_database(pool.clone(), self.stop.clone()),
        );
        let api = tokio::spawn(harkara_api::serve(listener, state, self.stop.clone()));

        let worker_pool = harkara_shared::database::pool(&database.settings, "harkara-worker")?;
        let services = Services {
            engine: Engine::new(worker_pool.clone(), settings.notify),
            pool: worker_pool.clone(),
            keys: master.clone(),
            egress,
        };
        let scheduler = tokio::spawn(harkara_scheduler::schedule(
            services.engine.clone(),
            self.stop.clone(),
        ));
        let worker = {
            let (settings, stop) = (settings.clone(), self.stop.clone());
            tokio::spawn(async move { harkara_worker::work(&settings, services, stop).await })
        };

        let base = format!("http://{address}");
        say(&format!(
            "  API        {base}  (description at /openapi.json, metrics at /metrics)\n  \
             tenant     demo      key {}\n  operator   platform  key {}\n",
            first.tenant, first.operator
        ));
        let demo = if self.args.no_demo {
            None
        } else {
            let demo = demo::Demo::start(&base, &first.tenant, &pool, self.stop.clone());
            tokio::select! {
                demo = demo => Some(demo?),
                () = self.stop.cancelled() => None,
            }
        };
        say(&format!(
            "  try        curl -H 'Authorization: Bearer {}' -H 'Content-Type: application/json' \\\n  \
             \x20            -d '{{\"type\":\"demo.greeted\",\"data\":{{\"hello\":\"world\"}}}}' {base}/v1/events\n\n\
             Running. Ctrl-C stops everything.",
            first.tenant
        ));

        self.stop.cancelled().await;
        say("stopping: jobs in flight may finish");
        if let Some(demo) = demo {
            demo.end(&pool).await;
        }
        let grace = settings.drain + harkara_worker::STOP_MARGIN;
        if tokio::time::timeout(grace, worker).await.is_err() {
            tracing::warn!("the worker did not stop in time");
        }
        tokio::time::timeout(Duration::from_secs(5), scheduler)
            .await
            .ok();
        tokio::time::timeout(Duration::from_secs(10), api)
            .await
            .ok();
        worker_pool.close().await;
        pool.close().await;
        Ok(())
    }
}

/// A line for the person who started `up`.
#[expect(
    clippy::print_stdout,
    reason = "what `up` shows is its output, not a log"
)]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// How the parts of `up` reach its database.
fn own_settings(base: &Settings, url: String) -> DatabaseSettings {
    match &base.database {
        Some(settings) => DatabaseSettings {
            url,
            ..settings.clone()
        },
        None => DatabaseSettings::new(url),
    }
}
