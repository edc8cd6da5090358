//! Representations of resources for command-line tools.
//!
//! Renders what the queue reads as the JSON that the API returns. Never shows what the API would not.

use harkara_queue::LiveWorker;
use harkara_queue::job::Job;
use harkara_queue::read::Explanation;
use serde::Serialize;
use serde_json::Value;

use super::jobs::explain::ExplanationResponse;
use super::jobs::response::JobResponse;
use super::workers::WorkerResponse;

/// A job as `GET /v1/jobs/{id}` returns it.
#[must_use]
pub fn job(job: Job) -> Value {
    to_json(&JobResponse::from(job))
}

/// An explanation as `GET /v1/jobs/{id}/explain` returns it.
#[must_use]
pub fn explanation(explanation: Explanation) -> Value {
    to_json(&ExplanationResponse::from(explanation))
}

/// A worker as `GET /v1/workers` lists it.
#[must_use]
pub fn worker(worker: LiveWorker) -> Value {
    to_json(&WorkerResponse::from(worker))
}

fn to_json(response: &impl Serialize) -> Value {
    // Serializing a struct with named members cannot fail.
    serde_json::to_value(response).unwrap_or_default()
}
