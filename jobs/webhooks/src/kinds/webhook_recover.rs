//! The kind `webhook.recover`: redelivers the events that an endpoint missed.
//!
//! Enqueues deliveries step by step. It never redelivers a delivery that is pending or has succeeded.

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
use crate::endpoint::{EndpointStatus, find_endpoint};
use crate::error::Error;
use crate::redelivery::{RecoveryFilter, recover_deliveries};
use crate::services::Services;

/// Maximum difference between the database's clock and the clock of the process that created a delivery's id.
const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::hours(1);

/// - Changes: failed, skipped or cancelled deliveries become pending again, each with a new job.
/// - Twice: the second run skips the deliveries that the first made pending.
/// - Calls: nothing.
/// - Dead: request it again; deliveries that it enqueued remain.
#[derive(Debug)]
pub struct WebhookRecover;

/// Payload of `webhook.recover`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// Id of the endpoint.
    #[schema(value_type = String, pattern = "^ep_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    pub endpoint_id: EndpointId,
    /// Only events posted at or after this time.
    pub since: DateTime<Utc>,
    /// Only events posted at or before this time.
    pub until: DateTime<Utc>,
    /// States of the deliveries to recover. Default `failed` and `skipped`.
    #[serde(default = "default_states")]
    #[schema(inline)]
    pub states: Vec<RecoverableState>,
}

/// States that can be recovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = MissedState)]
pub enum RecoverableState {
    /// All attempts failed.
    Failed,
    /// Not sent, because the endpoint was disabled.
    Skipped,
    /// Its job was cancelled.
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

/// States that are recovered by default.
#[must_use]
pub fn default_states() -> Vec<RecoverableState> {
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
        let mut errors = Vec::new();
        if args.until < args.since {
            errors.push(FieldError::new(
                "/until",
                "out_of_range",
                "must not be before `since`",
            ));
        }
        if args.states.is_empty() {
            errors.push(FieldError::new(
                "/states",
                "empty",
                "must name at least one state",
            ));
        }
        errors
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
    let filter = RecoveryFilter {
        endpoint: args.endpoint_id,
        since: args.since,
        until: args.until,
        last: first_id_at(args.until + MAX_CLOCK_SKEW),
        states: args
            .states
            .iter()
            .copied()
            .map(DeliveryState::from)
            .collect(),
    };
    let mut after = first_id_at(args.since - MAX_CLOCK_SKEW);
    let mut enqueued = 0;
    loop {
        let mut tx = TenantTx::begin(&services.common.pool, run.job.tenant).await?;
        match find_endpoint(&mut tx, args.endpoint_id).await? {
            Some(endpoint) if endpoint.status != EndpointStatus::Disabled => {}
            Some(_) => {
                let error = JobError::new("endpoint_disabled", "the endpoint is disabled");
                return Ok(Verdict::Dead { error });
            }
            None => {
                let error = JobError::new("endpoint_not_found", "endpoint not found");
                return Ok(Verdict::Dead { error });
            }
        }
        let step = recover_deliveries(&mut tx, &services.common.engine, &filter, after).await?;
        tx.commit().await?;
        let Some((last, count)) = step else { break };
        after = last;
        enqueued += count;
        tracing::debug!(endpoint.id = %args.endpoint_id, enqueued, "recovering");
    }
    Ok(Verdict::Done {
        result: Some(json!({"deliveries": enqueued})),
        follow_ups: Vec::new(),
    })
}

/// The smallest id of deliveries created at or after this time: ids are UUIDv7.
fn first_id_at(time: DateTime<Utc>) -> DeliveryId {
    let millis = u64::try_from(time.timestamp_millis()).unwrap_or(0);
    DeliveryId::from_uuid(Uuid::from_u64_pair(millis << 16, 0))
}
