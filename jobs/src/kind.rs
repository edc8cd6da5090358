//! A kind as the catalogue holds it: its defaults as data, its functions behind pointers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use harkara_kind::{FieldError, JobKind};
use harkara_queue::job::NewJob;
use harkara_queue::{Run, Verdict};
use harkara_shared::backoff::Backoff;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::PartialSchema;

use crate::services::Services;

type RunFn = fn(Run, Arc<Services>) -> Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// A kind of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Name, `noun.verb`.
    pub name: &'static str,
    /// Default queue.
    pub queue: &'static str,
    /// Default number of attempts.
    pub max_attempts: u16,
    /// Default timeout.
    pub timeout: Duration,
    /// Whether only the built-in tenant `platform` can enqueue it.
    pub platform_only: bool,
    job: fn(Box<RawValue>) -> NewJob,
    backoff: fn() -> Backoff,
    check: fn(&RawValue) -> Vec<FieldError>,
    shape: fn() -> Value,
    rules: fn() -> Value,
    run: RunFn,
}

impl Kind {
    /// The catalogue's entry for `K`.
    #[must_use]
    pub const fn of<K: JobKind>() -> Self
    where
        Services: AsRef<K::Services>,
    {
        Self {
            name: K::KIND,
            queue: K::QUEUE,
            max_attempts: K::MAX_ATTEMPTS,
            timeout: K::TIMEOUT,
            platform_only: K::PLATFORM_ONLY,
            job: K::job,
            backoff: K::backoff,
            check: harkara_kind::check::<K>,
            shape: shape::<K>,
            rules: K::rules,
            run: run::<K>,
        }
    }

    /// Default backoff between failed runs.
    #[must_use]
    pub fn backoff(&self) -> Backoff {
        (self.backoff)()
    }

    /// A job of this kind with all its defaults.
    #[must_use]
    pub fn job(&self, payload: Box<RawValue>) -> NewJob {
        (self.job)(payload)
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

    /// JSON Schema of the payload's shape, derived from its type.
    #[must_use]
    pub fn shape(&self) -> Value {
        (self.shape)()
    }

    /// See [`JobKind::rules`].
    #[must_use]
    pub fn rules(&self) -> Value {
        (self.rules)()
    }

    /// All errors in a payload of this kind; pointers are relative to the payload.
    #[must_use]
    pub fn check(&self, payload: &RawValue) -> Vec<FieldError> {
        (self.check)(payload)
    }
}

fn shape<K: JobKind>() -> Value {
    serde_json::to_value(K::Args::schema()).unwrap_or_default()
}

fn run<K: JobKind>(
    run: Run,
    services: Arc<Services>,
) -> Pin<Box<dyn Future<Output = Verdict> + Send>>
where
    Services: AsRef<K::Services>,
{
    Box::pin(async move { harkara_kind::run::<K>(run, (*services).as_ref()).await })
}
