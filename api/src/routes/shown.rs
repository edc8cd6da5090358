//! Room: answers for tools that work without a request.
//! Takes: what the queue reads. Gives: the JSON that the API would answer.
//! Never: shows what the API would not.

use harkara_queue::WorkerSeen;
use harkara_queue::job::Job;
use harkara_queue::read::Explanation;
use serde::Serialize;
use serde_json::Value;

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
pub fn worker(worker: WorkerSeen) -> Value {
    value(&WorkerAnswer::from(worker))
}

fn value(answer: &impl Serialize) -> Value {
    // Answers are structs with names for members, which can always be written.
    serde_json::to_value(answer).unwrap_or_default()
}
