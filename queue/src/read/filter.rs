//! Conditions by which jobs are listed and scanned.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::job::JobState;

/// Conditions on jobs. All conditions that are set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobFilter {
    #[expect(
        missing_docs,
        reason = "on an inlined member they make the schema state two types at once"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub state: Option<JobState>,
    /// Kind of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Queue of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// A tag of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Unique key with which the job was enqueued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_key: Option<String>,
    /// Ordering key with which the job was enqueued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<String>,
    /// Enqueued at or after this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_after: Option<DateTime<Utc>>,
    /// Enqueued before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_before: Option<DateTime<Utc>>,
    /// Code of the job's last error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
}

impl JobFilter {
    /// The conditions that labels answer, as names and values; the most selective first.
    pub(crate) fn labels(&self) -> (Vec<&str>, Vec<&str>) {
        [
            ("unique_key", &self.unique_key),
            ("ordering_key", &self.ordering_key),
            ("tag", &self.tag),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.as_deref().map(|value| (name, value)))
        .unzip()
    }
}
