//! A kind whose payload selects the behavior of its handler.

use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_jobs::catalogue::Kind;
use harkara_kind::{FieldError, JobKind, Services};
use harkara_kit::Kit;
use harkara_queue::job::JobError;
use harkara_queue::{Run, Verdict};
use harkara_shared::backoff::{Backoff, Jitter};
use harkara_shared::clock;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) struct Odd;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Args {
    Succeed,
    /// Returns the time of the clock as its result.
    Look,
    Fail,
    FailAtOnce,
    Bury,
    Panic,
    /// Waits until it is cancelled or abandoned.
    Wait,
    Snooze(u64),
    Limited(u64),
    /// Returns follow-up jobs with these payloads.
    #[schema(no_recursion)]
    Follow(Vec<Args>),
    /// A payload that the kind's check rejects.
    Wrong,
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);

impl JobKind for Odd {
    const KIND: &'static str = "test.odd";
    const QUEUE: &'static str = "odd";
    const MAX_ATTEMPTS: u16 = 3;
    const TIMEOUT: Duration = Duration::from_secs(60);
    type Services = Services;
    type Args = Args;

    fn backoff() -> Backoff {
        Backoff {
            jitter: Jitter::None,
            ..Backoff::default()
        }
    }

    fn check(args: &Args) -> Vec<FieldError> {
        match args {
            Args::Wrong => vec![FieldError::new("", "wrong", "must be another")],
            _ => Vec::new(),
        }
    }

    async fn run(args: Args, run: Run, _: &Services) -> Verdict {
        let error = |code: &str| JobError::new(code, "on purpose");
        let done = |result| Verdict::Done {
            result: Some(result),
            follow_ups: Vec::new(),
        };
        match args {
            Args::Succeed | Args::Wrong => Verdict::done(),
            Args::Look => done(serde_json::to_value(clock::now()).unwrap()),
            Args::Fail => Verdict::retry(error("failed"), None),
            Args::FailAtOnce => Verdict::retry(error("failed"), Some(Duration::ZERO)),
            Args::Bury => Verdict::Dead {
                error: error("hopeless"),
            },
            Args::Panic => panic!("attempt {}", run.job.attempt),
            Args::Wait => {
                run.cancel.cancelled().await;
                std::future::pending().await
            }
            Args::Snooze(seconds) => Verdict::Snooze {
                wait: SECOND * u32::try_from(seconds).unwrap(),
                reason: error("early"),
            },
            Args::Limited(seconds) => Verdict::RateLimited {
                wait: SECOND * u32::try_from(seconds).unwrap(),
                reason: error("busy"),
            },
            Args::Follow(payloads) => Verdict::Done {
                result: None,
                follow_ups: payloads
                    .iter()
                    .map(|args| {
                        let payload = serde_json::value::to_raw_value(args).unwrap();
                        Kind::of::<Self>().job(payload)
                    })
                    .collect(),
            },
        }
    }
}

pub(crate) async fn kit() -> Kit {
    Kit::start_with(&[Kind::of::<Odd>()]).await
}

/// The time in the result of an [`Args::Look`] job.
pub(crate) fn seen(result: Option<serde_json::Value>) -> DateTime<Utc> {
    serde_json::from_value(result.unwrap()).unwrap()
}
