//! The kind `webhook.recover`: redelivers what an endpoint missed.
//!
//! Enqueues deliveries step by step. It never redelivers what is pending or has succeeded.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use harkara_kind::FieldError;
use harkara_kind::JobKind;
use harkara_kind::database_verdict;
use harkara_queue::job::JobError;
use harkara_queue::{Run, Verdict};
use harkara_shared::database::TenantTx;
use harkara_shared::id::{DeliveryId, EndpointId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::types::Uuid;
use utoipa::ToSchema;

use crate::delivery::DeliveryState;
use crate::endpoint::{EndpointStatus, endpoint};
use crate::error::Error;
use crate::redelivery::{RecoveryFilter, recover};
use crate::services::Services;

/// How far the clock that gave a delivery its id may be from the database's.
const SKEW: TimeDelta = TimeDelta::hours(1);

/// - Changes: deliveries that failed, were skipped or cancelled are pending again, each with a new job.
/// - Twice: what the first made pending, the second leaves alone.
/// - Calls: nobody.
/// - Dead: ask for it again; what it came to stays made.
#[derive(Debug)]
pub struct WebhookRecover;

/// Payload of `webhook.recover`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// The endpoint.
    #[schema(value_type = String, pattern = "^ep_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    pub endpoint_id: EndpointId,
    /// Of events posted from this moment on.
    pub since: DateTime<Utc>,
    /// Of events posted until this moment.
    pub until: DateTime<Utc>,
    /// What has become of them.
    #[serde(default = "missed")]
    #[schema(inline)]
    pub states: Vec<RecoverableState>,
}

/// What may be made up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = MissedState)]
pub enum RecoverableState {
    /// Given up.
    Failed,
    /// Not sent, because the endpoint was disabled.
    Skipped,
    /// Cancelled by somebody.
    Cancelled,
}

impl From<RecoverableState> for DeliveryState {
    fn from(state: RecoverableState) -> Self {
        match state {
            RecoverableState::Failed => Self::Failed,
            RecoverableState::Skipped => Self::Skipped,
            RecoverableState::Cancelled => Self::Cancelled,
        }
    }
}

/// What a recovery makes up for unless it is told otherwise.
#[must_use]
pub fn missed() -> Vec<RecoverableState> {
    vec![RecoverableState::Failed, RecoverableState::Skipped]
}

impl JobKind for WebhookRecover {
    const KIND: &'static str = "webhook.recover";
    const QUEUE: &'static str = "maintenance";
    const MAX_ATTEMPTS: u16 = 10;
    const TIMEOUT: Duration = Duration::from_secs(30 * 60);
    type Services = Services;
    type Args = Args;

    fn check(args: &Args) -> Vec<FieldError> {
        let mut faults = Vec::new();
        if args.until < args.since {
            faults.push(FieldError::new(
                "/until",
                "out_of_range",
                "must not be before `since`",
            ));
        }
        if args.states.is_empty() {
            faults.push(FieldError::new(
                "/states",
                "empty",
                "must name at least one state",
            ));
        }
        faults
    }

    async fn run(args: Args, run: Run, services: &Services) -> Verdict {
        match work(&args, &run, services).await {
            Ok(verdict) => verdict,
            Err(error) => match error.database() {
                Some(error) => database_verdict(error),
                None => Verdict::retry(JobError::new("webhook", error.to_string()), None),
            },
        }
    }
}

async fn work(args: &Args, run: &Run, services: &Services) -> Result<Verdict, Error> {
    let missed = RecoveryFilter {
        endpoint: args.endpoint_id,
        since: args.since,
        until: args.until,
        last: first_of(args.until + SKEW),
        states: args
            .states
            .iter()
            .copied()
            .map(DeliveryState::from)
            .collect(),
    };
    let mut after = first_of(args.since - SKEW);
    let mut made = 0;
    loop {
        let mut tx = TenantTx::begin(&services.common.pool, run.job.tenant).await?;
        match endpoint(&mut tx, args.endpoint_id).await? {
            Some(endpoint) if endpoint.status != EndpointStatus::Disabled => {}
            Some(_) => {
                let error = JobError::new("endpoint_disabled", "the endpoint is disabled");
                return Ok(Verdict::Dead { error });
            }
            None => {
                let error = JobError::new("endpoint_not_found", "there is no such endpoint");
                return Ok(Verdict::Dead { error });
            }
        }
        let step = recover(&mut tx, &services.common.engine, &missed, after).await?;
        tx.commit().await?;
        let Some((last, count)) = step else { break };
        after = last;
        made += count;
        tracing::debug!(endpoint.id = %args.endpoint_id, made, "recovering");
    }
    Ok(Verdict::Done {
        result: Some(json!({"deliveries": made})),
        follow_ups: Vec::new(),
    })
}

/// A delivery id before all that were made from this moment on: they are UUIDv7.
fn first_of(moment: DateTime<Utc>) -> DeliveryId {
    let millis = u64::try_from(moment.timestamp_millis()).unwrap_or_default();
    DeliveryId::from_uuid(Uuid::from_u64_pair(millis << 16, 0))
}
