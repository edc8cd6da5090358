//! Room: the catalogue of kinds.
//! Takes: a kind's name. Gives: its defaults, its check of a payload, its handler.
//! Never: knows what a kind does.
//!
//! A new kind is one file in `kinds/` and one line in [`KINDS`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use harkara_queue::job::{JobError, Lane, NewJob, Trace};
use harkara_queue::{Handler, Run, Verdict};
use harkara_shared::backoff::Backoff;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::{PartialSchema, ToSchema};

use crate::fault::Fault;
use crate::kinds;
use crate::services::Services;

/// What a kind of job must say of itself. The doc comment of an implementation answers four
/// questions: what it changes, why running it twice is safe, what it calls, and what a person does
/// when it is dead.
pub trait JobKind: Send + Sync + 'static {
    /// Name, `noun.verb`; stands in rows, so it is never changed.
    const KIND: &'static str;
    /// Queue it waits in unless a job says otherwise.
    const QUEUE: &'static str;
    /// Runs that may fail.
    const MAX_ATTEMPTS: u16;
    /// Longest run.
    const TIMEOUT: Duration;
    /// Only the platform itself, not a tenant, may enqueue it.
    const PLATFORM_ONLY: bool = false;
    /// Its handler watches `run.cancel` and ends by itself when somebody cancels the job, or is dropped at
    /// its timeout. The handlers of other kinds are dropped when their job is cancelled.
    const HEEDS_CANCEL: bool = false;
    /// What its payload holds. Unknown members should be refused.
    type Args: DeserializeOwned + ToSchema + Send + 'static;

    /// Waits between failed runs.
    fn backoff() -> Backoff {
        Backoff::default()
    }

    /// Rules beyond the payload's shape.
    fn check(_args: &Self::Args) -> Vec<Fault> {
        Vec::new()
    }

    /// The same rules, as far as the database can keep them, for applications that enqueue by SQL: a
    /// JSON Schema as `queue.check_value` (migration 0016) reads it.
    fn rules() -> Value {
        Value::Bool(true)
    }

    /// Runs one job. Says what went wrong, never what happens next; writes no job state.
    fn run(
        args: Self::Args,
        run: Run,
        services: Arc<Services>,
    ) -> impl Future<Output = Verdict> + Send;
}

/// Priority of a job that names none: in the middle of 0 to 9.
pub const DEFAULT_PRIORITY: u8 = 5;

type RunFn = fn(Run, Arc<Services>) -> Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// A kind as the other rooms see it.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Name.
    pub name: &'static str,
    /// Default queue.
    pub queue: &'static str,
    /// Default number of runs that may fail.
    pub max_attempts: u16,
    /// Default timeout.
    pub timeout: Duration,
    /// Only the built-in tenant `platform` may enqueue it.
    pub platform_only: bool,
    backoff: fn() -> Backoff,
    check: fn(&RawValue) -> Vec<Fault>,
    shape: fn() -> Value,
    rules: fn() -> Value,
    run: RunFn,
}

impl Kind {
    /// The kind that `K` says it is. The catalogue makes its lines so, and tests of kinds.
    #[must_use]
    pub const fn of<K: JobKind>() -> Self {
        Self {
            name: K::KIND,
            queue: K::QUEUE,
            max_attempts: K::MAX_ATTEMPTS,
            timeout: K::TIMEOUT,
            platform_only: K::PLATFORM_ONLY,
            backoff: K::backoff,
            check: check::<K>,
            shape: shape::<K>,
            rules: K::rules,
            run: run::<K>,
        }
    }

    /// Default backoff.
    #[must_use]
    pub fn backoff(&self) -> Backoff {
        (self.backoff)()
    }

    /// A job of this kind with all its defaults.
    #[must_use]
    pub fn job(&self, payload: Box<RawValue>) -> NewJob {
        NewJob {
            kind: self.name.to_owned(),
            queue: self.queue.to_owned(),
            payload,
            priority: DEFAULT_PRIORITY,
            run_at: None,
            delay: Duration::ZERO,
            expires_at: None,
            max_attempts: self.max_attempts,
            timeout: self.timeout,
            backoff: self.backoff(),
            unique: None,
            lane: Lane::Default,
            limits: Vec::new(),
            tags: Vec::new(),
            trace: Trace::default(),
        }
    }

    /// Runs one job of this kind.
    #[must_use]
    pub fn run(
        &self,
        run: Run,
        services: Arc<Services>,
    ) -> Pin<Box<dyn Future<Output = Verdict> + Send>> {
        (self.run)(run, services)
    }

    /// The JSON Schema of the payload's shape, made from its type; null if its type has none.
    #[must_use]
    pub fn shape(&self) -> Value {
        (self.shape)()
    }

    /// See [`JobKind::rules`].
    #[must_use]
    pub fn rules(&self) -> Value {
        (self.rules)()
    }

    /// Everything wrong with a payload of this kind; pointers are relative to the payload.
    #[must_use]
    pub fn check(&self, payload: &RawValue) -> Vec<Fault> {
        (self.check)(payload)
    }
}

/// All kinds, in the order of their names.
pub const KINDS: &[Kind] = &[
    Kind::of::<kinds::audit_anchor::AuditAnchor>(),
    Kind::of::<kinds::http_request::HttpRequest>(),
    Kind::of::<kinds::maintenance_access_expiry::MaintenanceAccessExpiry>(),
    Kind::of::<kinds::maintenance_retention::Retention>(),
    Kind::of::<kinds::maintenance_usage_reset::MaintenanceUsageReset>(),
    Kind::of::<kinds::retry_redrive::RetryRedrive>(),
    Kind::of::<kinds::tenant_erase::TenantErase>(),
    Kind::of::<kinds::webhook_deliver::WebhookDeliver>(),
    Kind::of::<kinds::webhook_recover::WebhookRecover>(),
];

/// The kind as the other rooms see it.
#[must_use]
pub const fn of<K: JobKind>() -> Kind {
    Kind::of::<K>()
}

/// The kind of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

fn check<K: JobKind>(payload: &RawValue) -> Vec<Fault> {
    let mut decoder = serde_json::Deserializer::from_str(payload.get());
    match serde_path_to_error::deserialize::<_, K::Args>(&mut decoder) {
        Ok(args) => K::check(&args),
        Err(error) => vec![Fault::new(
            crate::fault::pointer(error.path()),
            "invalid",
            crate::fault::words(error.inner()),
        )],
    }
}

fn shape<K: JobKind>() -> Value {
    serde_json::to_value(K::Args::schema()).unwrap_or_default()
}

fn run<K: JobKind>(
    run: Run,
    services: Arc<Services>,
) -> Pin<Box<dyn Future<Output = Verdict> + Send>> {
    Box::pin(async move {
        match serde_json::from_str::<K::Args>(run.job.payload().get()) {
            Ok(args) if K::HEEDS_CANCEL => K::run(args, run, services).await,
            Ok(args) => {
                let cancel = run.cancel.clone();
                tokio::select! {
                    biased;
                    verdict = K::run(args, run, services) => verdict,
                    () = cancel.cancelled() => Verdict::Cancelled,
                }
            }
            Err(error) => Verdict::Dead {
                error: JobError::new(
                    "invalid_payload",
                    format!("the payload cannot be read: {error}"),
                ),
            },
        }
    })
}

/// Runs whatever job it is given by the catalogue.
#[derive(Debug, Clone)]
pub struct Catalogue(Arc<Services>);

impl Catalogue {
    /// A catalogue whose handlers use `services`.
    #[must_use]
    pub fn new(services: Services) -> Self {
        Self(Arc::new(services))
    }
}

impl Handler for Catalogue {
    fn run(&self, run: Run) -> Pin<Box<dyn Future<Output = Verdict> + Send>> {
        match find(&run.job.kind) {
            Some(kind) => kind.run(run, Arc::clone(&self.0)),
            // While a release rolls out, an older worker may meet a newer kind: that is no failure.
            None => {
                let reason = JobError::new(
                    "unknown_kind",
                    format!("this worker's release has no kind `{}`", run.job.kind),
                );
                let verdict = Verdict::Snooze {
                    wait: Duration::from_secs(30),
                    reason,
                };
                Box::pin(std::future::ready(verdict))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use harkara_shared::config::Settings;

    use super::*;

    #[test]
    fn names_are_unique_and_stand_in_order() {
        let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        let sorted: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(names, sorted.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn every_kind_has_its_line_in_the_catalogue() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kinds");
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            if stem == "mod" {
                continue;
            }
            let name = stem.replacen('_', ".", 1);
            let kind: String = stem
                .split('_')
                .map(|word| {
                    let (first, rest) = word.split_at(1);
                    format!("{}{rest}", first.to_uppercase())
                })
                .collect();
            assert!(
                find(&name).is_some(),
                "KINDS lacks the line\n    Kind::of::<kinds::{stem}::{kind}>(),"
            );
        }
    }

    #[test]
    fn a_worker_serves_the_queue_of_every_kind_by_default() {
        let settings = Settings::read(Default::default(), &[]).unwrap();
        for kind in KINDS {
            let served = settings
                .worker_queues
                .iter()
                .any(|queue| queue.queue == kind.queue);
            assert!(
                served,
                "nobody serves `{}`, the queue of {}",
                kind.queue, kind.name
            );
        }
    }

    #[test]
    fn every_default_is_one_that_a_job_may_name() {
        for kind in KINDS {
            assert!(kind.max_attempts >= 1, "{}", kind.name);
            assert!(!kind.timeout.is_zero(), "{}", kind.name);
            assert_eq!(kind.backoff().validate(), Ok(()), "{}", kind.name);
        }
    }

    #[test]
    fn a_payload_of_the_wrong_shape_is_pointed_at() {
        let kind = find("http.request").unwrap();
        let faults = |text: &str| kind.check(&RawValue::from_string(text.to_owned()).unwrap());
        assert_eq!(faults(r#"{"url": "https://example.com"}"#), []);
        let wrong_type = faults(r#"{"url": "https://example.com", "headers": {"a": 1}}"#);
        assert_eq!(wrong_type.first().unwrap().pointer, "/headers/a");
        assert!(
            faults(r#"{"uri": "https://example.com"}"#)
                .first()
                .unwrap()
                .detail
                .contains("uri")
        );
    }
}
