//! Routes of queues.
//!
//! Lists queues with their settings and counts, and lets the platform change them. Never shows a tenant a
//! queue that only another tenant uses.

pub(super) mod lanes;

use std::collections::HashMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use harkara_jobs::catalogue::KINDS;
use harkara_queue::Engine;
use harkara_queue::read::QueueCounts;
use harkara_queue::settings::{Change, QueueSettings, QueueView};
use harkara_shared::audit::Entry;
use harkara_shared::config::is_queue_name;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::limits::NumberReader;
use crate::ApiState;
use crate::auth::{Authorized, Caller, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::paging::{Page, Paging};
use crate::problem::Problem;
use crate::query::{PathId, QueueName};

/// Period of the rates of queues and lanes.
const SECOND: Duration = Duration::from_secs(1);

/// A queue, shared by all tenants.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Queue)]
pub(super) struct QueueResponse {
    /// Name of the queue.
    #[schema(example = "http")]
    name: String,
    /// Whether the queue is paused.
    paused: bool,
    /// Maximum number of jobs running at once, over all tenants.
    #[schema(required, example = 64)]
    max_running: Option<u32>,
    /// Maximum number of jobs started per second, over all tenants.
    #[schema(required, example = 100)]
    rate_per_second: Option<u64>,
    /// Maximum number of starts at once after idle time.
    #[schema(required, example = 10)]
    burst: Option<u32>,
    /// Jobs that are due. This and the other counts cover the caller's tenant; for the platform, all
    /// tenants.
    #[schema(example = 12)]
    ready: i64,
    /// Jobs that are not due yet or wait for a retry.
    #[schema(example = 3)]
    scheduled: i64,
    /// Jobs that are running.
    #[schema(example = 8)]
    running: i64,
    /// Jobs that failed permanently and are still stored.
    #[schema(example = 0)]
    dead: i64,
    /// Seconds since the oldest job that could start now became due; null if there is none. Ignores paused
    /// jobs and parked lanes. Considers at most 1,000 lanes.
    #[schema(required, example = 0.25)]
    oldest_ready_seconds: Option<f64>,
    /// Jobs enqueued in the last complete minute.
    #[schema(example = 480)]
    enqueued_per_minute: i64,
    /// Jobs that succeeded in the last complete minute.
    #[schema(example = 477)]
    succeeded_per_minute: i64,
    /// Runs that failed in the last complete minute, whether or not they are retried.
    #[schema(example = 2)]
    failed_per_minute: i64,
}

impl QueueResponse {
    fn new(queue: QueueSettings, counts: QueueCounts) -> Self {
        Self {
            name: queue.name,
            paused: queue.paused,
            max_running: queue.limit.max_running,
            rate_per_second: queue.limit.rate.map(|rate| rate.count_in(SECOND)),
            burst: queue.limit.rate.map(|rate| rate.burst),
            ready: counts.ready,
            scheduled: counts.scheduled,
            running: counts.running,
            dead: counts.dead,
            oldest_ready_seconds: counts.oldest_ready_seconds,
            enqueued_per_minute: counts.enqueued,
            succeeded_per_minute: counts.succeeded,
            failed_per_minute: counts.failed,
        }
    }
}

/// Changes of a queue's limits. Members that are omitted stay unchanged; null removes them.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewQueueLimits, example = json!({"max_running": 64, "rate_per_second": 100}))]
pub(super) struct QueueLimitsRequest {
    /// Maximum number of jobs running at once, over all tenants.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    max_running: Change<i64>,
    /// Maximum number of jobs started per second, over all tenants.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    rate_per_second: Change<i64>,
    /// Maximum number of starts at once after idle time. Default: a tenth of the rate, at least 1. Null
    /// restores the default.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    burst: Change<i64>,
}

/// List queues
///
/// A tenant sees the queues it has used and the queues of the public kinds, with counts of its own jobs,
/// all taken at one moment.
#[utoipa::path(
    get,
    path = "/v1/queues",
    operation_id = "list_queues",
    tag = "queues",
    responses((status = 200, description = "A page of queues", body = Page<QueueResponse>))
)]
pub(super) async fn list_queues(
    State(state): State<ApiState>,
    caller: Authorized<scope::JobsRead>,
    paging: Paging<i32>,
) -> Result<Json<Page<QueueResponse>>, Problem> {
    let public = public_queues();
    let queues = state
        .engine()
        .queues(
            visible_queues(&caller, &public),
            paging.after.unwrap_or_default(),
            paging.fetch_limit(),
        )
        .await?;
    let counts = load_counts(&state, &caller, &queues).await?;
    Ok(paging.page(
        queues,
        |queue| queue.id,
        |queue| {
            let counts = counts.get(&queue.id).copied().unwrap_or_default();
            QueueResponse::new(queue, counts)
        },
    ))
}

/// Limit a queue
///
/// Applies to the jobs of all tenants together, from the next claim. Only for keys and users of the tenant
/// `platform`.
#[utoipa::path(
    put,
    path = "/v1/queues/{name}",
    operation_id = "limit_queue",
    tag = "queues",
    request_body = QueueLimitsRequest,
    responses((status = 200, description = "The changed queue", body = QueueResponse))
)]
pub(super) async fn limit_queue(
    State(state): State<ApiState>,
    caller: Authorized<scope::QueuesManage>,
    PathId(name): PathId<QueueName>,
    body: JsonBody,
) -> Result<Json<QueueResponse>, Problem> {
    require_queue_management(&state, &caller, &name).await?;
    let mut errors = FieldErrors::default();
    let request: QueueLimitsRequest = body.members(&mut errors).unwrap_or_default();
    let mut numbers = NumberReader {
        prefix: "",
        errors: &mut errors,
    };
    let change = numbers.limit(
        ("rate_per_second", request.rate_per_second),
        SECOND,
        request.burst,
        request.max_running,
    );
    errors.into_body_result()?;
    let entry = Entry::new("queue.limit", &name).after(body.value());
    let engine = engine_with_audit(&state, &caller, entry);
    engine.set_queue(&name, &change).await?;
    queue_response(&state, &caller, &name).await
}

/// Pause a queue
///
/// No further jobs start, of any tenant. Running jobs continue. Only for keys and users of the tenant
/// `platform`.
#[utoipa::path(
    post,
    path = "/v1/queues/{name}/pause",
    operation_id = "pause_queue",
    tag = "queues",
    responses((status = 200, description = "The changed queue", body = QueueResponse))
)]
pub(super) async fn pause_queue(
    State(state): State<ApiState>,
    caller: Authorized<scope::QueuesManage>,
    PathId(name): PathId<QueueName>,
) -> Result<Json<QueueResponse>, Problem> {
    require_queue_management(&state, &caller, &name).await?;
    let engine = engine_with_audit(&state, &caller, Entry::new("queue.pause", &name));
    engine.pause_queue(&name, true).await?;
    queue_response(&state, &caller, &name).await
}

/// Resume a queue
///
/// Only for keys and users of the tenant `platform`.
#[utoipa::path(
    post,
    path = "/v1/queues/{name}/resume",
    operation_id = "resume_queue",
    tag = "queues",
    responses((status = 200, description = "The changed queue", body = QueueResponse))
)]
pub(super) async fn resume_queue(
    State(state): State<ApiState>,
    caller: Authorized<scope::QueuesManage>,
    PathId(name): PathId<QueueName>,
) -> Result<Json<QueueResponse>, Problem> {
    require_queue_management(&state, &caller, &name).await?;
    let engine = engine_with_audit(&state, &caller, Entry::new("queue.resume", &name));
    engine.pause_queue(&name, false).await?;
    queue_response(&state, &caller, &name).await
}

/// The engine, with an entry for the audit log of the caller's own tenant, because queues belong to no
/// tenant.
fn engine_with_audit(state: &ApiState, caller: &Caller, entry: Entry) -> Engine {
    state
        .engine()
        .with_audit(caller.audit_note_in(caller.home_tenant(), entry))
}

/// Returns an error unless the caller may change what all tenants share. A queue that the caller cannot see
/// is reported as not found.
async fn require_queue_management(
    state: &ApiState,
    caller: &Caller,
    name: &str,
) -> Result<(), Problem> {
    require_visible(state, caller, name).await?;
    caller.require_platform()
}

/// Returns an error unless the caller can see the queue.
async fn require_visible(state: &ApiState, caller: &Caller, name: &str) -> Result<(), Problem> {
    if is_queue_name(name) {
        let public = public_queues();
        let queue = state
            .engine()
            .queue(visible_queues(caller, &public), name)
            .await?;
        if queue.is_some() {
            return Ok(());
        }
    }
    Err(Problem::not_found("queue"))
}

async fn queue_response(
    state: &ApiState,
    caller: &Caller,
    name: &str,
) -> Result<Json<QueueResponse>, Problem> {
    let queue = state.engine().queue(QueueView::All, name).await?;
    let queue = queue.ok_or_else(|| Problem::not_found("queue"))?;
    let counts = load_counts(state, caller, std::slice::from_ref(&queue)).await?;
    let counts = counts.get(&queue.id).copied().unwrap_or_default();
    Ok(Json(QueueResponse::new(queue, counts)))
}

/// Counts the jobs of the queues, by queue id: for the caller's tenant, or for all tenants if the caller is
/// the platform.
async fn load_counts(
    state: &ApiState,
    caller: &Caller,
    queues: &[QueueSettings],
) -> Result<HashMap<i32, QueueCounts>, Problem> {
    let ids: Vec<i32> = queues.iter().map(|queue| queue.id).collect();
    let tenant = (!caller.in_platform_tenant).then_some(caller.tenant);
    let counts = state.engine().queue_counts(&ids, tenant).await?;
    Ok(counts
        .into_iter()
        .map(|counts| (counts.queue, counts))
        .collect())
}

/// The queues of kinds that every tenant may enqueue.
pub(super) fn public_queues() -> Vec<&'static str> {
    KINDS
        .iter()
        .filter(|kind| !kind.platform_only)
        .map(|kind| kind.queue)
        .collect()
}

pub(super) fn visible_queues<'a>(caller: &Caller, public: &'a [&'a str]) -> QueueView<'a> {
    if caller.in_platform_tenant || caller.is_platform_admin() {
        QueueView::All
    } else {
        QueueView::VisibleTo(caller.tenant, public)
    }
}
