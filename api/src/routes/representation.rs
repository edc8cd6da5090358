//! Representations of resources for command-line tools.
//!
//! Renders what the queue reads as the JSON that the API returns, with the same members.

use harkara_queue::LiveWorker;
use harkara_queue::job::Job;
use harkara_queue::read::Explanation;
use serde_json::Value;

use super::jobs::explain::ExplanationResponse;
use super::jobs::response::JobResponse;
use super::workers::WorkerResponse;

/// A job as `GET /v1/jobs/{id}` returns it.
///
/// # Errors
/// When it cannot be represented as JSON.
pub fn job(job: Job) -> Result<Value, serde_json::Error> {
    serde_json::to_value(JobResponse::from(job))
}

/// An explanation as `GET /v1/jobs/{id}/explain` returns it.
///
/// # Errors
/// When it cannot be represented as JSON.
pub fn explanation(explanation: Explanation) -> Result<Value, serde_json::Error> {
    serde_json::to_value(ExplanationResponse::from(explanation))
}

/// A worker as `GET /v1/workers` lists it.
///
/// # Errors
/// When it cannot be represented as JSON.
pub fn worker(worker: LiveWorker) -> Result<Value, serde_json::Error> {
    serde_json::to_value(WorkerResponse::from(worker))
}
