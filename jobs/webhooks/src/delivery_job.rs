//! The job that makes one delivery: its payload and its defaults, for the modules that enqueue it.

use std::time::Duration;

use harkara_queue::job::NewJob;
use harkara_shared::backoff::{Backoff, Jitter};
use harkara_shared::id::DeliveryId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::attempt::Trigger;
use crate::error::Error;

pub(crate) const KIND: &str = "webhook.deliver";
pub(crate) const QUEUE: &str = "webhook";
pub(crate) const MAX_ATTEMPTS: u16 = 10;
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// Payload of `webhook.deliver`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// Id of the delivery.
    #[schema(value_type = String, pattern = "^dlv_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    pub delivery_id: DeliveryId,
    // Described by its type: an inlined member cannot have two descriptions.
    #[serde(default, rename = "cause")]
    #[schema(inline)]
    #[expect(missing_docs, reason = "described by the type")]
    pub trigger: Trigger,
}

/// Backoff of runs that end without a response, for example by a panic. Other runs follow the endpoint's schedule.
pub(crate) fn backoff() -> Backoff {
    Backoff {
        base: Duration::from_secs(5),
        factor: 5.0,
        max: Duration::from_secs(24 * 60 * 60),
        jitter: Jitter::Equal,
    }
}

/// The job that makes a delivery, with its defaults.
pub(crate) fn delivery_job(delivery: DeliveryId, trigger: Trigger) -> Result<NewJob, Error> {
    let args = Args {
        delivery_id: delivery,
        trigger,
    };
    let payload = serde_json::value::to_raw_value(&args).map_err(harkara_queue::Error::from)?;
    Ok(NewJob {
        backoff: backoff(),
        ..harkara_kind::new_job(KIND, QUEUE, MAX_ATTEMPTS, TIMEOUT, payload)
    })
}
