//! The kind `invoice.remind`: sends up to three reminders of an invoice.
//! Takes the invoice, the receiver's URL and the earliest time; makes a POST and enqueues the next
//! reminder. It never checks the payment itself: the receiver answers 410 when the invoice is paid.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use harkara_kind::{FieldError, JobKind, Services};
use harkara_queue::job::JobError;
use harkara_queue::{Run, Verdict};
use harkara_shared::clock;
use harkara_shared::egress::EgressRequest;
use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use utoipa::ToSchema;

const LAST_ROUND: u8 = 3;
const REMINDER_INTERVAL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// - Changes: nothing here; the receiver sends the reminder.
/// - Twice: the request names invoice and round, so that the receiver can detect a repetition.
/// - Calls: the URL of its payload, through the egress rules.
/// - Dead: no reminder is sent; retry the job when the receiver works again.
#[derive(Debug)]
pub struct InvoiceRemind;

/// Payload of `invoice.remind`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// The number of the invoice.
    pub invoice: String,
    /// The URL to which the reminder is posted.
    pub url: String,
    /// The earliest time of the reminder.
    pub from: DateTime<Utc>,
    /// The number of the reminder, 1 to 3.
    pub round: u8,
}

impl JobKind for InvoiceRemind {
    const KIND: &'static str = "invoice.remind";
    const QUEUE: &'static str = "invoice";
    const MAX_ATTEMPTS: u16 = 5;
    const TIMEOUT: Duration = Duration::from_secs(20);
    type Services = Services;
    type Args = Args;

    fn check(args: &Args) -> Vec<FieldError> {
        if (1..=LAST_ROUND).contains(&args.round) {
            return Vec::new();
        }
        vec![FieldError::new("/round", "invalid", "must be 1, 2 or 3")]
    }

    async fn run(args: Args, _: Run, services: &Services) -> Verdict {
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

/// The follow-up of a reminder: the next one, enqueued in the transaction that settles this job.
fn reminded(args: Args) -> Verdict {
    let mut follow_ups = Vec::new();
    if args.round < LAST_ROUND {
        let next = Args {
            from: clock::now() + REMINDER_INTERVAL,
            round: args.round + 1,
            ..args
        };
        match to_raw_value(&next) {
            Ok(payload) => {
                let mut job = InvoiceRemind::job(payload);
                job.delay = REMINDER_INTERVAL;
                follow_ups.push(job);
            }
            Err(error) => return retry("unwritable", error.to_string()),
        }
    }
    Verdict::Done {
        result: None,
        follow_ups,
    }
}

fn retry(code: &str, message: String) -> Verdict {
    Verdict::retry(JobError::new(code, message), None)
}
