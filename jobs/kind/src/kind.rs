//! The trait that every kind of job implements.
//!
//! A kind declares its defaults, checks its payload and runs one job. Its run returns a verdict; the queue decides what
//! happens to the job.

use std::future::Future;
use std::time::Duration;

use harkara_queue::job::{JobError, Lane, NewJob, Trace};
use harkara_queue::{Run, Verdict};
use harkara_shared::backoff::Backoff;
use harkara_shared::json;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::field_error::FieldError;

/// Priority of a job that names none: in the middle of 0 to 9.
pub const DEFAULT_PRIORITY: u8 = 5;

/// A kind of job. The doc comment of an implementation states four things: what it changes, why running it twice is
/// safe, what it calls, and what an operator does when it is dead.
pub trait JobKind: Send + Sync + 'static {
    /// Name, `noun.verb`. Stored in rows and therefore never changed.
    const KIND: &'static str;
    /// Default queue.
    const QUEUE: &'static str;
    /// Default number of attempts.
    const MAX_ATTEMPTS: u16;
    /// Default timeout of a run.
    const TIMEOUT: Duration;
    /// Whether only the built-in tenant `platform` can enqueue it.
    const PLATFORM_ONLY: bool = false;
    /// Whether the handler watches `run.cancel` and returns when the job is cancelled; it is dropped at its timeout. Other
    /// handlers are dropped when their job is cancelled.
    const HEEDS_CANCEL: bool = false;
    /// Dependencies of the handler: a part of the services that the catalogue creates once per process.
    type Services: Send + Sync + 'static;
    /// The payload. Unknown members should be rejected.
    type Args: DeserializeOwned + ToSchema + Send + 'static;

    /// Default backoff between failed runs.
    fn backoff() -> Backoff {
        Backoff::default()
    }

    /// Checks the payload beyond its shape.
    fn check(_args: &Self::Args) -> Vec<FieldError> {
        Vec::new()
    }

    /// The rules of [`check`](Self::check) that the database can check, for applications that enqueue by SQL: a
    /// JSON Schema as `queue.check_value` reads it.
    fn rules() -> Value {
        Value::Bool(true)
    }

    /// Runs one job and returns a verdict. Writes no job state: the queue does.
    fn run(
        args: Self::Args,
        run: Run,
        services: &Self::Services,
    ) -> impl Future<Output = Verdict> + Send;

    /// A job of this kind with all its defaults.
    #[must_use]
    fn job(payload: Box<RawValue>) -> NewJob {
        NewJob {
            backoff: Self::backoff(),
            ..new_job(
                Self::KIND,
                Self::QUEUE,
                Self::MAX_ATTEMPTS,
                Self::TIMEOUT,
                payload,
            )
        }
    }
}

/// A job with the defaults that are common to all kinds.
#[must_use]
pub fn new_job(
    kind: &str,
    queue: &str,
    max_attempts: u16,
    timeout: Duration,
    payload: Box<RawValue>,
) -> NewJob {
    NewJob {
        kind: kind.to_owned(),
        queue: queue.to_owned(),
        payload,
        priority: DEFAULT_PRIORITY,
        run_at: None,
        delay: Duration::ZERO,
        expires_at: None,
        max_attempts,
        timeout,
        backoff: Backoff::default(),
        unique: None,
        lane: Lane::Default,
        limits: Vec::new(),
        tags: Vec::new(),
        trace: Trace::default(),
    }
}

/// All errors in a payload of kind `K`; pointers are relative to the payload.
#[must_use]
pub fn check<K: JobKind>(payload: &RawValue) -> Vec<FieldError> {
    match json::decode::<K::Args>(payload.get()) {
        Ok(args) => K::check(&args),
        Err(error) => vec![error.into()],
    }
}

/// Decodes the payload of one job of kind `K` and runs it. A payload that cannot be decoded ends the job dead.
pub async fn run<K: JobKind>(run: Run, services: &K::Services) -> Verdict {
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
}
