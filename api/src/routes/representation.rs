//! Room: answers for tools that work without a request.
//! Takes: what the queue reads. Gives: the JSON that the API would answer.
//! Never: shows what the API would not.

use harkara_queue::LiveWorker;
use harkara_queue::job::Job;
use harkara_queue::read::Explanation;
use harkara_shared::audit::ChainReport;
use harkara_shared::database::TenantTx;
use serde::Serialize;
use serde_json::Value;

use super::audit::{self, ChainCheckResponse};
use super::jobs::explain::ExplanationResponse;
use super::jobs::response::JobResponse;
use super::workers::WorkerResponse;

/// A job as `GET /v1/jobs/{id}` answers it.
#[must_use]
pub fn job(job: Job) -> Value {
    to_json(&JobResponse::from(job))
}

/// Why a job does not run, as `GET /v1/jobs/{id}/explain` answers it.
#[must_use]
pub fn explanation(explanation: Explanation) -> Value {
    to_json(&ExplanationResponse::from(explanation))
}

/// A worker as `GET /v1/workers` lists it.
#[must_use]
pub fn worker(worker: LiveWorker) -> Value {
    to_json(&WorkerResponse::from(worker))
}

/// The newest entries of the audit log of a transaction's tenant, as `GET /v1/audit-logs` lists them: at limit
/// `limit`, by actor, action and resource where these are given.
///
/// # Errors
/// When the database refuses.
pub async fn audit_log(
    tx: &mut TenantTx,
    filters: [Option<&str>; 3],
    limit: u32,
) -> Result<Vec<Value>, sqlx::Error> {
    let entries = audit::newest_entries(tx, filters, limit).await?;
    Ok(entries.iter().map(to_json).collect())
}

/// Whether an audit log is whole, as `GET /v1/audit-logs/verify` answers it.
#[must_use]
pub fn audit_check(checked: ChainReport) -> Value {
    to_json(&ChainCheckResponse::from(checked))
}

fn to_json(answer: &impl Serialize) -> Value {
    // Answers are structs with names for members, which can always be written.
    serde_json::to_value(answer).unwrap_or_default()
}
