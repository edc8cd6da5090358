//! Room: the kind `invoice.remind`: reminds somebody of an invoice, three times at most.
//! Takes: the invoice, where to post the reminder, from when on. Gives: a POST, and the job of the next
//! reminder. Never: asks whether the invoice was paid: the receiver answers 410 when it was.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use harkara_jobs::Services;
use harkara_jobs::catalogue::{JobKind, Kind};
use harkara_jobs::fault::Fault;
use harkara_queue::job::JobError;
use harkara_queue::{Run, Verdict};
use harkara_shared::clock;
use harkara_shared::egress::EgressRequest;
use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use utoipa::ToSchema;

const LAST_ROUND: u8 = 3;
const BETWEEN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// - Changes: nothing here; the receiver sends the reminder.
/// - Twice: the receiver is told invoice and round, and can tell a repetition.
/// - Calls: the URL of its payload, through the egress rules.
/// - Dead: nobody is reminded; when the receiver is mended, retry the job.
#[derive(Debug)]
pub struct InvoiceRemind;

/// Payload of `invoice.remind`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// The invoice.
    pub invoice: String,
    /// Where the reminder is posted.
    pub url: String,
    /// Not before this moment.
    pub from: DateTime<Utc>,
    /// Which reminder it is, 1 to 3.
    pub round: u8,
}

impl JobKind for InvoiceRemind {
    const KIND: &'static str = "invoice.remind";
    const QUEUE: &'static str = "invoice";
    const MAX_ATTEMPTS: u16 = 5;
    const TIMEOUT: Duration = Duration::from_secs(20);
    type Args = Args;

    fn check(args: &Args) -> Vec<Fault> {
        if (1..=LAST_ROUND).contains(&args.round) {
            return Vec::new();
        }
        vec![Fault::new("/round", "invalid", "must be 1, 2 or 3")]
    }

    async fn run(args: Args, _: Run, services: Arc<Services>) -> Verdict {
        if let Ok(wait) = (args.from - clock::now()).to_std()
            && !wait.is_zero()
        {
            let reason = JobError::new("too_early", "the invoice is not due yet");
            return Verdict::Snooze { wait, reason };
        }
        let request = EgressRequest {
            method: Method::POST,
            url: &args.url,
            headers: HeaderMap::new(),
            body: Bytes::from(format!("{}, reminder {}", args.invoice, args.round)),
            timeout: Duration::from_secs(15),
            identity: None,
        };
        match services.egress.send(request).await {
            Ok(answer) if answer.status.is_success() => reminded(args),
            Ok(answer) if answer.status == StatusCode::GONE => Verdict::done(),
            Ok(answer) => retry(
                "refused",
                format!("the receiver answered {}", answer.status),
            ),
            Err(error) if error.is_terminal() => Verdict::Dead {
                error: JobError::new(error.code(), error.to_string()),
            },
            Err(error) => retry(error.code(), error.to_string()),
        }
    }
}

/// What follows from a reminder: the next one, in the transaction that finishes this job.
fn reminded(args: Args) -> Verdict {
    let mut then = Vec::new();
    if args.round < LAST_ROUND {
        let next = Args {
            from: clock::now() + BETWEEN,
            round: args.round + 1,
            ..args
        };
        match to_raw_value(&next) {
            Ok(payload) => {
                let mut job = Kind::of::<InvoiceRemind>().job(payload);
                job.delay = BETWEEN;
                then.push(job);
            }
            Err(error) => return retry("unwritable", error.to_string()),
        }
    }
    Verdict::Done {
        result: None,
        follow_ups: then,
    }
}

fn retry(code: &str, message: String) -> Verdict {
    Verdict::retry(JobError::new(code, message), None)
}
