//! Routes of jobs.
//!
//! Enqueues, lists, shows, cancels, retries and reschedules jobs, each request in one transaction of the
//! caller's tenant. Never writes a job's state itself.

pub(super) mod batch;
pub(super) mod bulk;
pub(super) mod explain;
mod request;
pub(super) mod response;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use harkara_queue::job::{Enqueued, Job, JobState, NewJob};
use harkara_queue::read::{self, JobFilter};
use harkara_queue::{ChangeOutcome, Quota};
use harkara_shared::audit::Entry;
use harkara_shared::clock;
use harkara_shared::database::TenantTx;
use harkara_shared::id::JobId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::ApiState;
use crate::auth::{Authorized, Caller, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::paging::{List, Page, Paged};
use crate::problem::{Code, Problem};
use crate::query::PathId;
use crate::request_context::TraceContext;
use crate::time::Timestamp;
pub(super) use request::KEY_RULE;
use request::{EnqueueContext, read_job, read_run_at};
pub(super) use response::ErrorResponse;
use response::{AttemptResponse, JobResponse, JobStateName};

/// Enqueue a job
///
/// If another job of the same kind holds the `unique_key`, returns that job instead.
#[utoipa::path(
    post,
    path = "/v1/jobs",
    operation_id = "create_job",
    tag = "jobs",
    request_body = request::JobRequest,
    responses(
        (status = 201, description = "The enqueued job", body = JobResponse,
            headers(("Location" = String, description = "Path of the job"))),
        (status = 200, description = "The existing job that holds the unique key", body = JobResponse,
            headers(("Location" = String, description = "Path of the job"))),
        (status = 409, description = "The job that holds the unique key is no longer stored"),
        (status = 429, description = "The tenant's `max_waiting` is reached, or too many requests"),
    )
)]
pub(super) async fn create_job(
    State(state): State<ApiState>,
    caller: Authorized<scope::JobsWrite>,
    TraceContext(trace): TraceContext,
    body: JsonBody,
) -> Result<Response, Problem> {
    let mut errors = FieldErrors::default();
    let context = EnqueueContext {
        is_platform: caller.in_platform_tenant && caller.is_platform_admin(),
        trace,
        now: clock::now(),
    };
    let job = read_job(body.text(), "", &context, &mut errors);
    errors.into_body_result()?;
    // Validation returns a job unless it added an error.
    let job =
        job.ok_or_else(|| Problem::internal("validation returned neither a job nor an error"))?;
    let (enqueued, stored) = enqueue(&state, &caller, job).await?;
    let status = match enqueued {
        Enqueued::New(_) => StatusCode::CREATED,
        Enqueued::Existing(_) => StatusCode::OK,
    };
    let id = enqueued.id();
    let Some(job) = stored else {
        // A unique key can be held for longer than its job is stored.
        let detail = format!("unique key is held by {id}, which is no longer stored");
        return Err(Problem::new(Code::Conflict, detail));
    };
    let location = [(LOCATION, format!("/v1/jobs/{id}"))];
    Ok((status, location, Json(JobResponse::from(job))).into_response())
}

/// Enqueues a job and returns it with its state.
///
/// The job joins the next batch of concurrent requests, unless it may have to wait for its unique key or
/// needs an entry in the audit log, which takes a transaction of its own.
async fn enqueue(
    state: &ApiState,
    caller: &Caller,
    job: NewJob,
) -> Result<(Enqueued, Option<Job>), Problem> {
    let tenant = caller.tenant;
    if job.unique.is_none() && !caller.is_user() && !caller.needs_own_transaction() {
        let receipt = state.coalescer().enqueue(tenant, job.clone()).await?;
        let id = receipt.job.id();
        let stored = receipt
            .inserted
            .map(|entry| entry.into_job(id, tenant, job));
        return Ok((receipt.job, stored));
    }
    let mut tx = state.begin(caller).await?;
    let kind = job.kind.clone();
    let enqueued = state
        .engine()
        .enqueue(&mut tx, tenant, job, Quota::Enforce)
        .await?;
    let stored = read::job(&mut tx, enqueued.id()).await?;
    if caller.is_user() {
        let entry = Entry::new("job.enqueue", enqueued.id()).after(json!({"kind": kind}));
        caller.record(&mut tx, &entry).await?;
    }
    tx.commit().await?;
    Ok((enqueued, stored))
}

/// Filters of jobs. All filters that are given must match.
#[derive(Debug, Deserialize, Serialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct JobQuery {
    /// Only jobs in this state.
    state: Option<JobStateName>,
    /// Only jobs of this kind.
    #[param(example = "http.request")]
    kind: Option<String>,
    /// Only jobs in this queue.
    #[param(example = "http")]
    queue: Option<String>,
    /// Only jobs with this tag.
    tag: Option<String>,
    /// Only jobs enqueued with this unique key.
    unique_key: Option<String>,
    /// Only jobs enqueued with this ordering key.
    ordering_key: Option<String>,
    /// Only jobs enqueued at or after this time.
    #[param(value_type = Option<String>, format = DateTime)]
    created_after: Option<Timestamp>,
    /// Only jobs enqueued before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    created_before: Option<Timestamp>,
    /// Only jobs whose last error has this code.
    #[param(example = "http_500")]
    error_code: Option<String>,
}

/// List jobs, newest first
///
/// Each page reads at most 5,000 stored rows. If few jobs match, a page may hold fewer than `limit` items,
/// or none, and still have a `next_cursor`: continue until `next_cursor` is null.
#[utoipa::path(
    get,
    path = "/v1/jobs",
    operation_id = "list_jobs",
    tag = "jobs",
    responses((status = 200, description = "A page of jobs", body = Page<JobResponse>))
)]
pub(super) async fn list_jobs(
    State(state): State<ApiState>,
    caller: Authorized<scope::JobsRead>,
    Paged { filters, paging }: Paged<JobQuery, JobId>,
) -> Result<Json<Page<JobResponse>>, Problem> {
    let filter = JobFilter {
        state: filters.state.map(JobState::from),
        kind: filters.kind,
        queue: filters.queue,
        tag: filters.tag,
        unique_key: filters.unique_key,
        ordering_key: filters.ordering_key,
        created_after: filters.created_after.map(|moment| moment.0),
        created_before: filters.created_before.map(|moment| moment.0),
        error_code: filters.error_code,
    };
    let mut tx = state.begin(&caller).await?;
    let page = read::list(
        &mut tx,
        caller.tenant,
        &filter,
        paging.after,
        paging.fetch_limit(),
    )
    .await?;
    tx.commit().await?;
    Ok(paging.page_down_to(page.jobs, page.next_before, |job| job.id, JobResponse::from))
}

/// Get a job
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    operation_id = "get_job",
    tag = "jobs",
    responses((status = 200, description = "The job", body = JobResponse))
)]
pub(super) async fn get_job(
    State(state): State<ApiState>,
    caller: Authorized<scope::JobsRead>,
    PathId(id): PathId<JobId>,
) -> Result<Json<JobResponse>, Problem> {
    let tx = state.begin(&caller).await?;
    commit_and_get_job(tx, id).await
}

/// List the attempts of a job
///
/// Finished runs, oldest first.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/attempts",
    operation_id = "list_job_attempts",
    tag = "jobs",
    responses((status = 200, description = "The attempts", body = List<AttemptResponse>))
)]
pub(super) async fn list_job_attempts(
    State(state): State<ApiState>,
    caller: Authorized<scope::JobsRead>,
    PathId(id): PathId<JobId>,
) -> Result<Json<List<AttemptResponse>>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let attempts = read::attempts(&mut tx, id).await?;
    tx.commit().await?;
    let attempts = attempts.ok_or_else(job_not_found)?;
    Ok(Json(List {
        data: attempts.into_iter().map(AttemptResponse::from).collect(),
    }))
}

/// Cancel a job
///
/// A waiting job is cancelled at once. A running job receives a cancellation request and stays `running`
/// until it has stopped.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/cancel",
    operation_id = "cancel_job",
    tag = "jobs",
    responses(
        (status = 200, description = "The changed job", body = JobResponse),
        (status = 409, description = "The job has finished"),
    )
)]
pub(super) async fn cancel_job(
    State(state): State<ApiState>,
    caller: Authorized<scope::JobsWrite>,
    PathId(id): PathId<JobId>,
) -> Result<Json<JobResponse>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let changed = state.engine().cancel(&mut tx, id).await?;
    require_changed(changed, "cancelled", "scheduled, ready or running")?;
    caller
        .record(&mut tx, &Entry::new("job.cancel", id))
        .await?;
    commit_and_get_job(tx, id).await
}

/// Retry a job
///
/// Makes a dead or cancelled job ready again, with all its attempts available.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/retry",
    operation_id = "retry_job",
    tag = "jobs",
    responses(
        (status = 200, description = "The changed job", body = JobResponse),
        (status = 409, description = "The job is neither dead nor cancelled, or another job holds \
            its unique key"),
    )
)]
pub(super) async fn retry_job(
    State(state): State<ApiState>,
    caller: Authorized<scope::JobsWrite>,
    PathId(id): PathId<JobId>,
) -> Result<Json<JobResponse>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let changed = state.engine().retry(&mut tx, id).await?;
    require_changed(changed, "retried", "dead or cancelled")?;
    caller.record(&mut tx, &Entry::new("job.retry", id)).await?;
    commit_and_get_job(tx, id).await
}

/// A new time for a job.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewTime, example = json!({"run_at": "2030-01-31T12:00:00Z"}))]
pub(super) struct RescheduleRequest {
    /// Earliest time to run, at most ten years ahead. A time within the last 24 hours means now.
    #[schema(value_type = String, format = DateTime, required, nullable = false)]
    run_at: Option<Timestamp>,
}

/// Reschedule a job
///
/// Only for scheduled and ready jobs. In an ordered lane, a job that has already run stays first.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/reschedule",
    operation_id = "reschedule_job",
    tag = "jobs",
    request_body = RescheduleRequest,
    responses(
        (status = 200, description = "The changed job", body = JobResponse),
        (status = 409, description = "The job is running or has finished"),
    )
)]
pub(super) async fn reschedule_job(
    State(state): State<ApiState>,
    caller: Authorized<scope::JobsWrite>,
    PathId(id): PathId<JobId>,
    body: JsonBody,
) -> Result<Json<JobResponse>, Problem> {
    let mut errors = FieldErrors::default();
    let request: Option<RescheduleRequest> = body.members(&mut errors);
    let moment = request.and_then(|request| request.run_at);
    if moment.is_none() {
        errors.add("", "/run_at", "missing", "is required");
    }
    let run_at = read_run_at(moment, clock::now(), "", &mut errors);
    errors.into_body_result()?;
    let mut tx = state.begin(&caller).await?;
    let changed = state.engine().reschedule(&mut tx, id, run_at).await?;
    require_changed(changed, "rescheduled", "scheduled or ready")?;
    let entry = Entry::new("job.reschedule", id).after(json!({"run_at": run_at}));
    caller.record(&mut tx, &entry).await?;
    commit_and_get_job(tx, id).await
}

/// Returns an error unless the change was made.
fn require_changed(changed: ChangeOutcome, verb: &str, from: &str) -> Result<(), Problem> {
    let refused = |detail: String| Err(Problem::new(Code::Conflict, detail));
    match changed {
        ChangeOutcome::Applied(_) => Ok(()),
        ChangeOutcome::NotFound => Err(job_not_found()),
        ChangeOutcome::Refused(state) => {
            let state = JobStateName::from(state).as_str();
            refused(format!(
                "job is {state}; only a job that is {from} can be {verb}"
            ))
        }
        ChangeOutcome::KeyTaken(other) => refused(format!(
            "job cannot be {verb} while {other} holds its unique key"
        )),
    }
}

/// Reads the job, then commits the transaction.
async fn commit_and_get_job(mut tx: TenantTx, id: JobId) -> Result<Json<JobResponse>, Problem> {
    let job = read::job(&mut tx, id).await?;
    tx.commit().await?;
    job.map(|job| Json(job.into())).ok_or_else(job_not_found)
}

fn job_not_found() -> Problem {
    Problem::not_found("job")
}
