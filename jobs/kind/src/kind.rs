//! The trait that every kind of job implements.
//!
//! A kind states its defaults, checks its payload and runs one job. It reports what happened and never
//! decides what happens next: the queue does.

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
    /// What its handler works with: one of the parts that the catalogue makes once a process.
    type Services: Send + Sync + 'static;
    /// What its payload holds. Unknown members should be refused.
    type Args: DeserializeOwned + ToSchema + Send + 'static;

    /// Waits between failed runs.
    fn backoff() -> Backoff {
        Backoff::default()
    }

    /// Rules beyond the payload's shape.
    fn check(_args: &Self::Args) -> Vec<FieldError> {
        Vec::new()
    }

    /// The same rules, as far as the database can keep them, for applications that enqueue by SQL: a
    /// JSON Schema as `queue.check_value` reads it.
    fn rules() -> Value {
        Value::Bool(true)
    }

    /// Runs one job. Says what went wrong, never what happens next; writes no job state.
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

/// Everything wrong with a payload of kind `K`; pointers are relative to the payload.
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
