//! Room: the body of a parcel's member: all of a job that nothing searches by.
//! Takes: a [`NewJob`]. Gives: JSON bytes, and back. Never: changes the meaning of a member name:
//! bodies written by older releases are still in the table.

use std::time::Duration;

use harkara_shared::backoff::Backoff;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::job::{Lane, NewJob, Trace};

/// One-letter names, because there is one of these for every job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Envelope {
    /// Payload.
    #[serde(rename = "p")]
    pub(crate) payload: Box<RawValue>,
    /// Timeout in milliseconds.
    #[serde(rename = "t")]
    timeout_ms: u64,
    /// Backoff.
    #[serde(default, rename = "b", skip_serializing_if = "is_default")]
    pub(crate) backoff: Backoff,
    /// Unique key.
    #[serde(default, rename = "u", skip_serializing_if = "Option::is_none")]
    pub(crate) unique_key: Option<String>,
    /// Key of the ordered lane.
    #[serde(default, rename = "o", skip_serializing_if = "Option::is_none")]
    pub(crate) ordering_key: Option<String>,
    /// Tags.
    #[serde(default, rename = "g", skip_serializing_if = "Vec::is_empty")]
    pub(crate) tags: Vec<String>,
    /// Trace.
    #[serde(default, rename = "c", skip_serializing_if = "is_default")]
    pub(crate) trace: Trace,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Envelope {
    pub(crate) fn of(job: &NewJob) -> Self {
        Self {
            payload: job.payload.clone(),
            timeout_ms: u64::try_from(job.timeout.as_millis()).unwrap_or(u64::MAX),
            backoff: job.backoff,
            unique_key: job.unique.as_ref().map(|unique| unique.key.clone()),
            ordering_key: match &job.lane {
                Lane::Ordered(key) => Some(key.clone()),
                Lane::Default | Lane::Named(_) => None,
            },
            tags: job.tags.clone(),
            trace: job.trace.clone(),
        }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}
