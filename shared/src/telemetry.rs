//! Room: what the process tells of itself.
//! Takes: settings. Gives: the log, and a registry of metrics that is scraped as text.
//! Never: writes a secret, a message body or a request's payload.

use std::io::IsTerminal;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, Settings};

/// Names of all metrics, in one place: unit and meaning beside each.
pub mod metric {
    /// Jobs accepted into a queue (counter; kind).
    pub const JOBS_ENQUEUED: &str = "harkara_jobs_enqueued_total";
    /// Runs that ended (counter; kind, outcome).
    pub const RUNS_FINISHED: &str = "harkara_runs_finished_total";
    /// Seconds from start to end of a run (histogram; kind).
    pub const RUN_SECONDS: &str = "harkara_run_seconds";
    /// Seconds from due to started (histogram; queue).
    pub const WAIT_SECONDS: &str = "harkara_wait_seconds";
    /// Jobs this process holds (gauge; queue).
    pub const JOBS_IN_FLIGHT: &str = "harkara_jobs_in_flight";
    /// Runs whose outcome was refused because the lease was lost (counter).
    pub const STALE_OUTCOMES: &str = "harkara_stale_outcomes_total";
    /// Leases this process lost while it worked (counter).
    pub const LEASES_LOST: &str = "harkara_leases_lost_total";
    /// Jobs taken back from workers that died (counter).
    pub const JOBS_RESCUED: &str = "harkara_jobs_rescued_total";
    /// Statements that failed inside the engine and are tried again (counter; statement).
    pub const ENGINE_RETRIES: &str = "harkara_engine_retries_total";
    /// HTTP requests answered (counter; method, route, status).
    pub const HTTP_REQUESTS: &str = "harkara_http_requests_total";
    /// Seconds to answer an HTTP request (histogram; method, route).
    pub const HTTP_SECONDS: &str = "harkara_http_request_seconds";
    /// Ticks a schedule emitted (counter; schedule).
    pub const TICKS_EMITTED: &str = "harkara_schedule_ticks_total";
    /// 1 while this scheduler leads (gauge).
    pub const SCHEDULER_LEADS: &str = "harkara_scheduler_leads";
}

/// Bounds of all duration histograms, in seconds.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Starts the log as the settings say. A second call in one process changes nothing.
pub fn start_log(settings: &Settings) {
    let filter = EnvFilter::try_new(&settings.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // An error means a log is running already: tests and `up` start one for the whole process.
    let _running = match settings.log_format {
        LogFormat::Text => log.finish().try_init(),
        LogFormat::Json => log.json().flatten_event(true).finish().try_init(),
    };
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
    /// The one registry of this process; the first call installs it.
    #[must_use]
    pub fn global() -> Self {
        static REGISTRY: std::sync::OnceLock<Metrics> = std::sync::OnceLock::new();
        REGISTRY
            .get_or_init(|| {
                let builder = PrometheusBuilder::new();
                let builder = builder
                    .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
                    .unwrap_or_else(|_| PrometheusBuilder::new());
                let recorder = builder.build_recorder();
                let handle = recorder.handle();
                // An error means another recorder is installed: ours then stays empty, harmlessly.
                let _installed = metrics::set_global_recorder(recorder);
                Metrics(handle)
            })
            .clone()
    }

    /// All metrics in Prometheus' text form.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }
}
