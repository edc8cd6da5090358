//! Encodes a job's body: everything about a job that no statement searches by, as JSON bytes in its
//! parcel.
//!
//! The meaning of a member name never changes: the table still holds bodies of older releases.

use std::time::Duration;

use harkara_shared::backoff::Backoff;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::job::{Lane, NewJob, Trace};

/// A job's body. Its members have one-letter names because every stored job has one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Envelope {
    #[serde(rename = "p")]
    pub(crate) payload: Box<RawValue>,
    #[serde(rename = "t")]
    timeout_ms: u64,
    #[serde(default, rename = "b", skip_serializing_if = "is_default")]
    pub(crate) backoff: Backoff,
    #[serde(default, rename = "u", skip_serializing_if = "Option::is_none")]
    pub(crate) unique_key: Option<String>,
    /// Key of the job's ordered lane.
    #[serde(default, rename = "o", skip_serializing_if = "Option::is_none")]
    pub(crate) ordering_key: Option<String>,
    #[serde(default, rename = "g", skip_serializing_if = "Vec::is_empty")]
    pub(crate) tags: Vec<String>,
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
