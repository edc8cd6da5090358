//! Route that changes all jobs matching a filter.
//!
//! Counts the jobs that match and enqueues a job that changes them. Never changes a matching job itself.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use harkara_platform::kinds::retry_redrive::Requested;
use harkara_platform::redrive::{Action, DEFAULT_RATE, Redrive};
use harkara_queue::job::JobState;
use harkara_queue::read::JobFilter;
use harkara_shared::audit::Entry;
use harkara_shared::id::JobId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::response::JobStateName;
use crate::ApiState;
use crate::auth::{Authorized, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::json;
use crate::problem::{Code, Problem};
use crate::request_context::TraceContext;
use crate::time::Timestamp;

/// A change of all jobs that match a filter.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BulkAction, example = json!({
    "action": "retry",
    "filter": {"state": "dead", "kind": "http.request", "error_code": "http_503"},
    "rate_per_second": 200
}))]
pub(in crate::routes) struct BulkRequest {
    /// What to do with the jobs.
    #[schema(value_type = BulkActionName, required, nullable = false)]
    action: Option<BulkActionName>,
    /// Which jobs to change. `{}` matches all jobs of the tenant that the action applies to.
    #[schema(value_type = JobFilterRequest, required, nullable = false)]
    filter: Option<Box<RawValue>>,
    /// If true, only counts the matching jobs.
    #[schema(default = false)]
    dry_run: Option<bool>,
    /// Maximum number of jobs changed per second.
    #[schema(minimum = 1, maximum = 100000, default = 1000)]
    rate_per_second: Option<i64>,
}

/// `retry` makes dead and cancelled jobs ready again, `cancel` cancels scheduled, ready and running jobs,
/// `delete` removes succeeded, dead and cancelled jobs.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Action)]
enum BulkActionName {
    Retry,
    Cancel,
    Delete,
}

/// Filters of jobs, as in `GET /v1/jobs`. All members that are given must match.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = JobFilter, example = json!({"state": "dead", "error_code": "http_503"}))]
struct JobFilterRequest {
    /// Only jobs in this state. The action must apply to it.
    #[schema(example = "dead")]
    state: Option<JobStateName>,
    /// Only jobs of this kind.
    #[schema(example = "http.request")]
    kind: Option<String>,
    /// Only jobs in this queue.
    #[schema(example = "http")]
    queue: Option<String>,
    /// Only jobs with this tag.
    tag: Option<String>,
    /// Only jobs enqueued with this unique key.
    unique_key: Option<String>,
    /// Only jobs enqueued with this ordering key.
    ordering_key: Option<String>,
    /// Only jobs enqueued at or after this time.
    #[schema(value_type = Option<String>, format = DateTime)]
    created_after: Option<Timestamp>,
    /// Only jobs enqueued before this time.
    #[schema(value_type = Option<String>, format = DateTime)]
    created_before: Option<Timestamp>,
    /// Only jobs whose last error has this code.
    #[schema(example = "http_503")]
    error_code: Option<String>,
}

impl From<JobFilterRequest> for JobFilter {
    fn from(request: JobFilterRequest) -> Self {
        Self {
            state: request.state.map(JobState::from),
            kind: request.kind,
            queue: request.queue,
            tag: request.tag,
            unique_key: request.unique_key,
            ordering_key: request.ordering_key,
            created_after: request.created_after.map(|moment| moment.0),
            created_before: request.created_before.map(|moment| moment.0),
            error_code: request.error_code,
        }
    }
}

/// The job that changes the matching jobs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BulkAnswer)]
pub(in crate::routes) struct BulkResponse {
    /// The job of kind `retry.redrive` that makes the change and reports its progress; null for a dry run.
    #[schema(required)]
    job_id: Option<JobId>,
    /// Number of jobs that match now.
    #[schema(example = 200_000)]
    matched: u64,
}

/// Retry, cancel or delete all jobs that match
///
/// Enqueues a job of kind `retry.redrive` that changes the matching jobs, oldest first, at most
/// `rate_per_second`. Its `progress` reports how many jobs were changed and why others could not be.
/// Cancelling it stops the change. Jobs enqueued later are not affected, and no job is changed twice.
#[utoipa::path(
    post,
    path = "/v1/jobs/bulk",
    operation_id = "change_jobs",
    tag = "jobs",
    request_body = BulkRequest,
    responses(
        (status = 202, description = "Number of matching jobs and the job that changes them",
            body = BulkResponse,
            headers(("Location" = String, description = "Path of the job; omitted for a dry run"))),
    )
)]
pub(in crate::routes) async fn change_jobs(
    State(state): State<ApiState>,
    caller: Authorized<scope::JobsWrite>,
    TraceContext(trace): TraceContext,
    body: JsonBody,
) -> Result<Response, Problem> {
    let mut errors = FieldErrors::default();
    let request: Option<BulkRequest> = body.members(&mut errors);
    let request = request.unwrap_or_default();
    let redrive = read_request(&request, &mut errors);
    errors.into_body_result()?;
    // Validation returns a redrive unless it added an error.
    let redrive = redrive
        .ok_or_else(|| Problem::internal("validation returned neither an action nor an error"))?;
    let dry_run = request.dry_run.unwrap_or_default();
    let mut tx = state.begin(&caller).await?;
    let requested = redrive
        .request(&mut tx, state.engine(), trace, dry_run)
        .await?;
    if let Requested::Counted {
        job: Some(job),
        matched,
    } = requested
    {
        let entry = Entry::new("job.bulk", job)
            .after(serde_json::json!({"redrive": redrive, "matched": matched}));
        caller.record(&mut tx, &entry).await?;
    }
    tx.commit().await?;
    match requested {
        Requested::TooMany => {
            let mut errors = FieldErrors::default();
            let detail = "counting the matches would read too many jobs: add filters, state and times first, or \
                enqueue a job of kind `retry.redrive`, which counts while it runs";
            errors.add("", "/filter", "too_many", detail);
            errors.into_body_result()?;
            Err(Problem::new(Code::Invalid, detail))
        }
        Requested::Counted { job, matched } => {
            let location = job.map(|job| [(LOCATION, format!("/v1/jobs/{job}"))]);
            let response = Json(BulkResponse {
                job_id: job,
                matched,
            });
            Ok(match location {
                Some(location) => (StatusCode::ACCEPTED, location, response).into_response(),
                None => (StatusCode::ACCEPTED, response).into_response(),
            })
        }
    }
}

fn read_request(request: &BulkRequest, errors: &mut FieldErrors) -> Option<Redrive> {
    if request.action.is_none() {
        errors.add("", "/action", "missing", "must be retry, cancel or delete");
    }
    let filter: JobFilterRequest = match &request.filter {
        Some(text) => json::decode(text.get(), "/filter", errors).unwrap_or_default(),
        None => {
            let detail = "is required; `{}` matches all jobs that the action applies to";
            errors.add("", "/filter", "missing", detail);
            JobFilterRequest::default()
        }
    };
    // A null member is usually a client's unset variable, which must not match all jobs.
    let members: BTreeMap<String, Option<&RawValue>> = request
        .filter
        .as_ref()
        .and_then(|text| serde_json::from_str(text.get()).ok())
        .unwrap_or_default();
    for (name, _) in members.iter().filter(|(_, value)| value.is_none()) {
        errors.add(
            "/filter",
            &format!("/{name}"),
            "invalid",
            "must not be null",
        );
    }
    let rate_per_second = request
        .rate_per_second
        .unwrap_or_else(|| DEFAULT_RATE.into());
    let redrive = Redrive {
        action: match request.action {
            // The checks of the rate do not depend on the action.
            None | Some(BulkActionName::Retry) => Action::Retry,
            Some(BulkActionName::Cancel) => Action::Cancel,
            Some(BulkActionName::Delete) => Action::Delete,
        },
        filter: filter.into(),
        rate_per_second,
    };
    let found = redrive.check().into_iter();
    let relevant =
        found.filter(|error| request.action.is_some() || !error.pointer.starts_with("/filter"));
    errors.extend("", relevant.collect());
    request.action.map(|_| redrive)
}
