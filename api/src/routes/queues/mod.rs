//! Room: routes of queues.
//! Takes: a caller's request. Gives: queues and what holds for them; the platform's changes.
//! Never: shows a tenant a queue whose name only another tenant made up.

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
use utoipa::{IntoParams, ToSchema};

use super::limits::NumberReader;
use super::page::{Page, to_read};
use crate::ApiState;
use crate::access::Scope;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::cursor::{List, number_at, place_of};
use crate::faults::Faults;
use crate::problem::Problem;
use crate::query::{Limit, PathId, Query, is_of_page};

/// Rates of queues and lanes are counted in this time.
const SECOND: Duration = Duration::from_secs(1);

/// A queue, which all tenants share.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Queue)]
pub(super) struct QueueResponse {
    /// Name.
    #[schema(example = "http")]
    name: String,
    /// Whether none of its jobs start.
    paused: bool,
    /// Jobs of all tenants running at once.
    #[schema(required, example = 64)]
    max_running: Option<u32>,
    /// Jobs of all tenants starting in a second.
    #[schema(required, example = 100)]
    rate_per_second: Option<u64>,
    /// Starts at once after a rest.
    #[schema(required, example = 10)]
    burst: Option<u32>,
    /// Jobs of the tenant that are due; for the platform those of all tenants, here and below.
    #[schema(example = 12)]
    ready: i64,
    /// Jobs that are not due yet, or wait for another try.
    #[schema(example = 3)]
    scheduled: i64,
    /// Jobs that run.
    #[schema(example = 8)]
    running: i64,
    /// Jobs that were given up and are kept.
    #[schema(example = 0)]
    dead: i64,
    /// Seconds since the oldest job that could start now was due; null when there is none. Jobs that are
    /// paused or in a parked lane are left out. Of a queue with very many lanes a thousand are looked at.
    #[schema(required, example = 0.25)]
    oldest_ready_seconds: Option<f64>,
    /// Jobs enqueued in the last whole minute.
    #[schema(example = 480)]
    enqueued_per_minute: i64,
    /// Jobs that succeeded in the last whole minute.
    #[schema(example = 477)]
    succeeded_per_minute: i64,
    /// Runs that failed in the last whole minute, whether they will be made again or not.
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

/// What is to change of a queue. Members that are not there stay, null removes them.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewQueueLimits, example = json!({"max_running": 64, "rate_per_second": 100}))]
pub(super) struct QueueLimitsRequest {
    /// Jobs of all tenants running at once.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    max_running: Change<i64>,
    /// Jobs of all tenants starting in a second.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    rate_per_second: Change<i64>,
    /// Starts at once after a rest; a tenth of the rate, at least 1, when null or never given.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    burst: Change<i64>,
}

#[derive(Debug, Deserialize, Serialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// How many items a page holds.
    #[serde(default, skip_serializing_if = "is_of_page")]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    pub(super) limit: Limit,
    /// `next_cursor` of the page before.
    #[serde(skip_serializing_if = "is_of_page")]
    pub(super) cursor: Option<String>,
}

/// List queues
///
/// A tenant sees those it has used and those of the kinds of jobs, with the numbers of its own jobs, exact
/// at one moment. Needs the scope `jobs:read`.
#[utoipa::path(
    get,
    path = "/v1/queues",
    operation_id = "list_queues",
    tag = "queues",
    params(PageQuery),
    responses((status = 200, description = "A page of queues", body = Page<QueueResponse>))
)]
pub(super) async fn list_queues(
    State(state): State<ApiState>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<QueueResponse>>, Problem> {
    caller.require(Scope::JobsRead)?;
    let list = List::of("/v1/queues", caller.tenant, &query);
    let after = match &query.cursor {
        Some(cursor) => i32::try_from(number_at(state.cursors().read(list, cursor)?)).ok(),
        None => None,
    };
    let public = public_queues();
    let queues = state
        .engine()
        .queues(
            visible_queues(&caller, &public),
            after.unwrap_or_default(),
            to_read(query.limit),
        )
        .await?;
    let counts = load_counts(&state, &caller, &queues).await?;
    Ok(Json(Page::of(
        queues,
        query.limit,
        state.cursors(),
        list,
        |queue| place_of(queue.id.into()),
        |queue| {
            let counts = counts.get(&queue.id).copied().unwrap_or_default();
            QueueResponse::new(queue, counts)
        },
    )))
}

/// Limit a queue
///
/// For the jobs of all tenants together, from the next claim on. Needs the scope `queues:manage` and a
/// key of the tenant `platform`.
#[utoipa::path(
    put,
    path = "/v1/queues/{name}",
    operation_id = "limit_queue",
    tag = "queues",
    params(("name" = String, Path, description = "The queue's name", example = "http")),
    request_body = QueueLimitsRequest,
    responses((status = 200, description = "The queue as it is now", body = QueueResponse))
)]
pub(super) async fn limit_queue(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(name): PathId<String>,
    body: JsonBody,
) -> Result<Json<QueueResponse>, Problem> {
    require_queue_management(&state, &caller, &name).await?;
    let mut faults = Faults::default();
    let request: QueueLimitsRequest = body.members(&mut faults).unwrap_or_default();
    let mut numbers = NumberReader {
        prefix: "",
        faults: &mut faults,
    };
    let change = numbers.limit(
        ("rate_per_second", request.rate_per_second),
        SECOND,
        request.burst,
        request.max_running,
    );
    faults.none_in_body()?;
    let entry = Entry::new("queue.limit", &name).after(body.value());
    let engine = engine_with_audit(&state, &caller, entry);
    engine.set_queue(&name, &change).await?;
    queue_response(&state, &caller, &name).await
}

/// Pause a queue
///
/// No more of its jobs start, whosever they are; those that run are left alone. Needs the scope
/// `queues:manage` and a key of the tenant `platform`.
#[utoipa::path(
    post,
    path = "/v1/queues/{name}/pause",
    operation_id = "pause_queue",
    tag = "queues",
    params(("name" = String, Path, description = "The queue's name", example = "http")),
    responses((status = 200, description = "The queue as it is now", body = QueueResponse))
)]
pub(super) async fn pause_queue(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(name): PathId<String>,
) -> Result<Json<QueueResponse>, Problem> {
    require_queue_management(&state, &caller, &name).await?;
    let engine = engine_with_audit(&state, &caller, Entry::new("queue.pause", &name));
    engine.pause_queue(&name, true).await?;
    queue_response(&state, &caller, &name).await
}

/// Resume a queue
///
/// Needs the scope `queues:manage` and a key of the tenant `platform`.
#[utoipa::path(
    post,
    path = "/v1/queues/{name}/resume",
    operation_id = "resume_queue",
    tag = "queues",
    params(("name" = String, Path, description = "The queue's name", example = "http")),
    responses((status = 200, description = "The queue as it is now", body = QueueResponse))
)]
pub(super) async fn resume_queue(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(name): PathId<String>,
) -> Result<Json<QueueResponse>, Problem> {
    require_queue_management(&state, &caller, &name).await?;
    let engine = engine_with_audit(&state, &caller, Entry::new("queue.resume", &name));
    engine.pause_queue(&name, false).await?;
    queue_response(&state, &caller, &name).await
}

/// The engine, with an entry for the chain of whom the caller belongs to: queues are nobody's.
fn engine_with_audit(state: &ApiState, caller: &Caller, entry: Entry) -> Engine {
    state
        .engine()
        .with_audit(caller.note_in(caller.home(), entry))
}

/// Goes on if the caller may change what all tenants share. A queue that the caller may not know of is
/// not there.
async fn require_queue_management(
    state: &ApiState,
    caller: &Caller,
    name: &str,
) -> Result<(), Problem> {
    caller.require(Scope::QueuesManage)?;
    require_visible(state, caller, name).await?;
    caller.require_platform()
}

/// Goes on if there is such a queue for the caller.
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

/// How the queues are doing, by their numbers: for the tenant, or for all if it is the platform.
async fn load_counts(
    state: &ApiState,
    caller: &Caller,
    queues: &[QueueSettings],
) -> Result<HashMap<i32, QueueCounts>, Problem> {
    let ids: Vec<i32> = queues.iter().map(|queue| queue.id).collect();
    let tenant = (!caller.is_platform).then_some(caller.tenant);
    let counts = state.engine().queue_counts(&ids, tenant).await?;
    Ok(counts
        .into_iter()
        .map(|counts| (counts.queue, counts))
        .collect())
}

/// The queues of kinds that any tenant may enqueue.
pub(super) fn public_queues() -> Vec<&'static str> {
    KINDS
        .iter()
        .filter(|kind| !kind.platform_only)
        .map(|kind| kind.queue)
        .collect()
}

pub(super) fn visible_queues<'a>(caller: &Caller, public: &'a [&'a str]) -> QueueView<'a> {
    if caller.is_platform || caller.administers() {
        QueueView::All
    } else {
        QueueView::VisibleTo(caller.tenant, public)
    }
}
