//! Route that explains why a job is not running.
//!
//! Returns the job's state and the reasons that hold it back, most decisive first. The queue decides what
//! the reasons are.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use harkara_queue::read::{self, Explanation, Reason, ReasonCode};
use harkara_shared::id::JobId;
use serde::Serialize;
use utoipa::ToSchema;

use super::job_not_found;
use super::response::JobStateName;
use crate::ApiState;
use crate::auth::{Authorized, scope};
use crate::problem::Problem;
use crate::query::PathId;

/// Why a job is not running.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Explanation, example = json!({
    "state": "ready",
    "runnable": false,
    "reasons": [
        {"code": "rate_limited", "until": "2030-01-31T12:00:40Z",
            "detail": "the tenant's limit `crm` is used up: 100 starts in 1m, 10 at once"},
        {"code": "behind", "since": "2030-01-31T12:00:00Z", "ahead": 42,
            "detail": "42 jobs of its lane go first"}
    ]
}))]
pub(crate) struct ExplanationResponse {
    /// State of the job.
    state: JobStateName,
    /// Whether the job is ready and held back only by other jobs of its lane.
    runnable: bool,
    /// Reasons that hold the job back, most decisive first.
    reasons: Vec<ReasonResponse>,
}

/// A reason why a job is not running.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Reason)]
pub(crate) struct ReasonResponse {
    /// Type of reason.
    code: ReasonCodeName,
    /// Explanation for people, in one sentence. The wording may change.
    #[schema(example = "the queue `http` is paused: none of its jobs start until it is resumed")]
    detail: String,
    /// When the reason began to apply, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<DateTime<Utc>>,
    /// When the reason stops applying by itself, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<DateTime<Utc>>,
    /// Number of jobs ahead of this one, if that is the reason. Counted up to 10,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 42, maximum = 10000)]
    ahead: Option<u32>,
}

/// `queue_paused`, `tenant_paused`, `lane_paused`: the queue, tenant or lane is paused. `scheduled`: the
/// job is not due yet. `no_worker`: no live worker serves its queue. `breaker_open`: its lane is parked
/// after failures. `ordering_head`: another job of its ordered lane runs first. `rate_limited`: a rate
/// limit is used up, or the receiver requested a delay. `concurrency_limit`: the maximum number of jobs is
/// running. `behind`: other jobs are ahead of it.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ReasonCode)]
pub(crate) enum ReasonCodeName {
    QueuePaused,
    TenantPaused,
    LanePaused,
    Scheduled,
    NoWorker,
    BreakerOpen,
    OrderingHead,
    RateLimited,
    ConcurrencyLimit,
    Behind,
    Running,
    Finished,
}

impl From<ReasonCode> for ReasonCodeName {
    fn from(code: ReasonCode) -> Self {
        match code {
            ReasonCode::QueuePaused => Self::QueuePaused,
            ReasonCode::TenantPaused => Self::TenantPaused,
            ReasonCode::LanePaused => Self::LanePaused,
            ReasonCode::Scheduled => Self::Scheduled,
            ReasonCode::NoWorker => Self::NoWorker,
            ReasonCode::BreakerOpen => Self::BreakerOpen,
            ReasonCode::OrderingHead => Self::OrderingHead,
            ReasonCode::RateLimited => Self::RateLimited,
            ReasonCode::ConcurrencyLimit => Self::ConcurrencyLimit,
            ReasonCode::Behind => Self::Behind,
            ReasonCode::Running => Self::Running,
            ReasonCode::Finished => Self::Finished,
        }
    }
}

impl From<Reason> for ReasonResponse {
    fn from(reason: Reason) -> Self {
        Self {
            code: reason.code.into(),
            detail: reason.detail,
            since: reason.since,
            until: reason.until,
            ahead: reason.ahead,
        }
    }
}

impl From<Explanation> for ExplanationResponse {
    fn from(explanation: Explanation) -> Self {
        Self {
            state: explanation.state.into(),
            runnable: explanation.runnable,
            reasons: explanation
                .reasons
                .into_iter()
                .map(ReasonResponse::from)
                .collect(),
        }
    }
}

/// Explain why a job is not running
///
/// Returns every reason that applies at this moment, most decisive first. For a job that is not due yet,
/// includes the reasons that will apply when it is.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/explain",
    operation_id = "explain_job",
    tag = "jobs",
    responses((status = 200, description = "The explanation", body = ExplanationResponse))
)]
pub(crate) async fn explain_job(
    State(state): State<ApiState>,
    caller: Authorized<scope::JobsRead>,
    PathId(id): PathId<JobId>,
) -> Result<Json<ExplanationResponse>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let explanation = read::explain(&mut tx, id).await?;
    tx.commit().await?;
    explanation
        .map(|explanation| Json(explanation.into()))
        .ok_or_else(job_not_found)
}
