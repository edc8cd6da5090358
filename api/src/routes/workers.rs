//! Route of workers.
//!
//! Lists the live workers. Never shows a tenant a host name, a queue it cannot see, or another tenant's
//! jobs.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use harkara_queue::LiveWorker;
use harkara_shared::id::WorkerId;
use serde::Serialize;
use utoipa::ToSchema;

use super::queues::{public_queues, visible_queues};
use crate::ApiState;
use crate::auth::{Authorized, scope};
use crate::paging::{Page, Paging};
use crate::problem::Problem;

/// A live worker. Workers serve all tenants.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Worker)]
pub(crate) struct WorkerResponse {
    /// Id of the worker, new for every start of its process.
    id: WorkerId,
    /// Host of the worker; null unless the caller is the platform.
    #[schema(required, example = "worker-7")]
    host: Option<String>,
    /// Version of the worker's release.
    #[schema(example = "0.1.0")]
    version: String,
    /// When the worker's process started.
    started_at: DateTime<Utc>,
    /// When the worker last renewed its lease.
    last_seen_at: DateTime<Utc>,
    /// Queues that the worker serves and the caller can see, with the worker's concurrency for each.
    #[schema(example = json!({"http": 256, "webhook": 256}))]
    queues: BTreeMap<String, u32>,
    /// Number of jobs the worker has claimed, including those about to start. Only jobs of the caller's
    /// tenant, unless the caller is the platform.
    #[schema(example = 3)]
    running: u64,
}

impl From<LiveWorker> for WorkerResponse {
    fn from(worker: LiveWorker) -> Self {
        Self {
            id: worker.id,
            host: worker.host,
            version: worker.version,
            started_at: worker.started_at,
            last_seen_at: worker.last_seen_at,
            queues: worker.queues,
            running: worker.running,
        }
    }
}

/// List workers, oldest first
///
/// Only live workers: a worker that has stopped or whose lease has expired is not listed. A tenant sees the
/// workers of queues it can see, without host names and with counts of its own jobs.
#[utoipa::path(
    get,
    path = "/v1/workers",
    operation_id = "list_workers",
    tag = "queues",
    responses((status = 200, description = "A page of workers", body = Page<WorkerResponse>))
)]
pub(super) async fn list_workers(
    State(state): State<ApiState>,
    caller: Authorized<scope::JobsRead>,
    paging: Paging<WorkerId>,
) -> Result<Json<Page<WorkerResponse>>, Problem> {
    let public = public_queues();
    let workers = state
        .engine()
        .workers(
            visible_queues(&caller, &public),
            paging.after,
            paging.fetch_limit(),
        )
        .await?;
    Ok(paging.page(workers, |worker| worker.id, WorkerResponse::from))
}
