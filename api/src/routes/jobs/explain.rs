//! Room: why a job does not run, as the API tells it.
//! Takes: a job's id. Gives: its state and what keeps it, the most decisive first.
//! Never: decides what keeps a job: the queue knows.

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
use crate::access::Scope;
use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::PathId;

/// Why a job does not run, or that it does.
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
    /// Where the job is in its life.
    state: JobStateName,
    /// Whether it is ready, and nothing but other jobs of its lane stands in its way.
    runnable: bool,
    /// What keeps it, the most decisive first.
    reasons: Vec<ReasonResponse>,
}

/// One thing that keeps a job from running.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Reason)]
pub(crate) struct ReasonResponse {
    /// What sort of thing.
    code: ReasonCodeName,
    /// One sentence for people. Its words may change.
    #[schema(
        example = "the queue `http` is paused: none of its jobs start until somebody resumes it"
    )]
    detail: String,
    /// Since when it holds, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<DateTime<Utc>>,
    /// When it ends by itself, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<DateTime<Utc>>,
    /// How many jobs go first, where that is what keeps it. Counted up to 10 000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 42, maximum = 10000)]
    ahead: Option<u32>,
}

/// `queue_paused`, `tenant_paused`, `lane_paused`: somebody has stopped it. `scheduled`: its time has
/// not come. `no_worker`: no worker that lives serves its queue. `breaker_open`: its lane rests after
/// failures. `ordering_head`: another job of its ordered lane goes first. `rate_limited`: a limit on starts
/// is used up, or the other side asked its lane to rest. `concurrency_limit`: as many run as may.
/// `behind`: it waits for its turn.
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

/// Tell why a job does not run
///
/// Every reason that holds at one moment, the most decisive first. Of a job whose time has not come,
/// those are told that will hold by then. Needs the scope `jobs:read`.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/explain",
    operation_id = "explain_job",
    tag = "jobs",
    params(("id" = String, Path, description = "The job's id", example = "job_0000000000500")),
    responses((status = 200, description = "Why it does not run", body = ExplanationResponse))
)]
pub(crate) async fn explain_job(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<JobId>,
) -> Result<Json<ExplanationResponse>, Problem> {
    caller.require(Scope::JobsRead)?;
    let mut tx = state.begin(&caller).await?;
    let explanation = read::explain(&mut tx, id).await?;
    tx.commit().await?;
    explanation
        .map(|explanation| Json(explanation.into()))
        .ok_or_else(job_not_found)
}
