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

use super::audit::{self, CheckAnswer};
use super::jobs::answer::JobAnswer;
use super::jobs::explain::ExplanationAnswer;
use super::workers::WorkerAnswer;

/// A job as `GET /v1/jobs/{id}` answers it.
#[must_use]
pub fn job(job: Job) -> Value {
    value(&JobAnswer::from(job))
}

/// Why a job does not run, as `GET /v1/jobs/{id}/explain` answers it.
#[must_use]
pub fn explanation(explanation: Explanation) -> Value {
    value(&ExplanationAnswer::from(explanation))
}

/// A worker as `GET /v1/workers` lists it.
#[must_use]
pub fn worker(worker: LiveWorker) -> Value {
    value(&WorkerAnswer::from(worker))
}

/// The newest entries of the audit log of a transaction's tenant, as `GET /v1/audit-logs` lists them: at most
/// `most`, by actor, action and resource where these are given.
///
/// # Errors
/// When the database refuses.
pub async fn audit_log(
    tx: &mut TenantTx,
    filters: [Option<&str>; 3],
    most: u32,
) -> Result<Vec<Value>, sqlx::Error> {
    let entries = audit::newest(tx, filters, most).await?;
    Ok(entries.iter().map(value).collect())
}

/// Whether an audit log is whole, as `GET /v1/audit-logs/verify` answers it.
#[must_use]
pub fn audit_check(checked: ChainReport) -> Value {
    value(&CheckAnswer::from(checked))
}

fn value(answer: &impl Serialize) -> Value {
    // Answers are structs with names for members, which can always be written.
    serde_json::to_value(answer).unwrap_or_default()
}
