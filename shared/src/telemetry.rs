//! The process's log and metrics.
//!
//! Logs and metrics never contain secrets, message bodies or request payloads.

use std::io::IsTerminal;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, Settings};

/// Names of all metrics, with unit, type and labels.
pub mod metric {
    /// Jobs enqueued (counter; label kind).
    pub const JOBS_ENQUEUED: &str = "harkara_jobs_enqueued_total";
    /// Runs finished (counter; labels kind, outcome).
    pub const RUNS_FINISHED: &str = "harkara_runs_finished_total";
    /// Duration of runs in seconds (histogram; label kind).
    pub const RUN_SECONDS: &str = "harkara_run_seconds";
    /// Time between due and started in seconds (histogram; label queue).
    pub const WAIT_SECONDS: &str = "harkara_wait_seconds";
    /// Jobs claimed by this process and not settled (gauge; label queue).
    pub const JOBS_IN_FLIGHT: &str = "harkara_jobs_in_flight";
    /// Outcomes rejected because the lease was lost (counter).
    pub const STALE_OUTCOMES: &str = "harkara_stale_outcomes_total";
    /// Leases lost while their jobs were running (counter).
    pub const LEASES_LOST: &str = "harkara_leases_lost_total";
    /// Jobs recovered from dead workers (counter).
    pub const JOBS_RESCUED: &str = "harkara_jobs_rescued_total";
    /// Engine statements that failed and are retried (counter; label statement).
    pub const ENGINE_RETRIES: &str = "harkara_engine_retries_total";
    /// HTTP requests served (counter; labels method, route, status).
    pub const HTTP_REQUESTS: &str = "harkara_http_requests_total";
    /// Duration of HTTP requests in seconds (histogram; labels method, route).
    pub const HTTP_SECONDS: &str = "harkara_http_request_seconds";
    /// Jobs enqueued by schedules (counter; label schedule).
    pub const TICKS_EMITTED: &str = "harkara_schedule_ticks_total";
    /// 1 while this scheduler is the leader, else 0 (gauge).
    pub const SCHEDULER_LEADS: &str = "harkara_scheduler_leads";
}

/// Bucket bounds of all duration histograms, in seconds.
const DURATION_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Starts the log as configured. A second call in one process has no effect.
pub fn start_log(settings: &Settings) {
    let (filter, invalid) = match EnvFilter::try_new(&settings.log) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // An error means that a log is already running, as in tests and under `up`.
    let _running = match settings.log_format {
        LogFormat::Text => log.finish().try_init(),
        LogFormat::Json => log.json().flatten_event(true).finish().try_init(),
    };
    if let Some(error) = invalid {
        tracing::warn!(filter = settings.log, %error, "invalid log filter; logging at `info`");
    }
}

/// The registry behind `/metrics`.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// The registry of this process. The first call installs it.
    #[must_use]
    pub fn global() -> Self {
        static REGISTRY: std::sync::OnceLock<Metrics> = std::sync::OnceLock::new();
        REGISTRY
            .get_or_init(|| {
                let builder = PrometheusBuilder::new();
                let builder = builder
                    .set_buckets_for_metric(
                        Matcher::Suffix("_seconds".to_owned()),
                        DURATION_BUCKETS,
                    )
                    // Fails only for an empty list of buckets.
                    .unwrap_or_else(|_| PrometheusBuilder::new());
                let recorder = builder.build_recorder();
                let handle = recorder.handle();
                // An error means that another recorder is installed; this one then stays empty.
                let _installed = metrics::set_global_recorder(recorder);
                Metrics(handle)
            })
            .clone()
    }

    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }
}
