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
    job: fn(Box<RawValue>) -> NewJob,
    backoff: fn() -> Backoff,
    check: fn(&RawValue) -> Vec<FieldError>,
    shape: fn() -> Value,
    rules: fn() -> Value,
    run: RunFn,
}

impl Kind {
    /// The kind that `K` says it is. The catalogue makes its lines so, and tests of kinds.
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

    /// Default backoff.
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
