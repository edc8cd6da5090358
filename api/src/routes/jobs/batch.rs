//! Route that enqueues many jobs in one request.
//!
//! Reads `{"jobs": […]}`, or one job per line while the body arrives. Enqueues all jobs in one transaction,
//! or none and reports what is wrong with which job. Never buffers more of a body than its jobs.

use harkara_queue::Quota;
use std::fmt;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use harkara_queue::job::{Enqueued, NewJob};
use harkara_shared::audit::Entry;
use harkara_shared::clock;
use harkara_shared::id::JobId;
use harkara_shared::json::message;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::request::{EnqueueContext, JobRequest, read_job};
use crate::ApiState;
use crate::auth::{Authorized, scope};
use crate::body::{BATCH_LIMIT, Chunks, is_json, json_text, media_type, unsupported};
use crate::field_errors::FieldErrors;
use crate::json;
use crate::problem::{Code, Problem};
use crate::request_context::TraceContext;

/// Maximum number of jobs in a batch.
const MAX_BATCH_JOBS: usize = 10_000;

/// Maximum length of a line in bytes; above the maximum size of a job.
const MAX_LINE_BYTES: usize = 2 << 20;

/// A batch of jobs.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewJobs)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "describes the body that `split_jobs` reads without copying"
)]
pub(crate) struct BatchRequest {
    /// The jobs, each as in `POST /v1/jobs`.
    #[schema(min_items = 1, max_items = 10000)]
    jobs: Vec<JobRequest>,
}

/// Result of a batch.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BatchResult)]
pub(crate) struct BatchResponse {
    /// Number of jobs that were enqueued.
    #[schema(example = 2)]
    inserted: usize,
    /// Number of jobs that were not enqueued because another job holds their unique key.
    #[schema(example = 0)]
    existing: usize,
    /// One id per job, in the order of the request.
    #[schema(value_type = Vec<String>, example = json!(["job_0000000000500", "job_0000000000600"]))]
    ids: Vec<JobId>,
}

/// Enqueue a batch of jobs
///
/// Enqueues all jobs, or none if any of them is invalid; errors point to a job by its index, for example
/// `/jobs/17/priority`. Up to 10,000 jobs and 64 MiB, as `{"jobs": […]}` or as one job per line.
#[utoipa::path(
    post,
    path = "/v1/jobs/batch",
    operation_id = "create_jobs",
    tag = "jobs",
    request_body(content(
        (BatchRequest = "application/json", example = json!({"jobs": [
            {"kind": "http.request", "payload": {"url": "https://example.com/a"}},
            {"kind": "http.request", "payload": {"url": "https://example.com/b"}, "priority": 0}
        ]})),
        (JobRequest = "application/x-ndjson", example = json!(
            "{\"kind\": \"http.request\", \"payload\": {\"url\": \"https://example.com/a\"}}\n"
        )),
    )),
    responses(
        (status = 201, description = "All jobs were enqueued", body = BatchResponse),
        (status = 429, description = "The tenant's `max_waiting` would be exceeded, or too many requests"),
    )
)]
pub(crate) async fn create_jobs(
    State(state): State<ApiState>,
    caller: Authorized<scope::JobsWrite>,
    TraceContext(trace): TraceContext,
    request: Request,
) -> Result<(StatusCode, Json<BatchResponse>), Problem> {
    let context = EnqueueContext {
        is_platform: caller.in_platform_tenant && caller.is_platform_admin(),
        trace,
        now: clock::now(),
    };
    let (parts, body) = request.into_parts();
    let jobs = read_batch(&parts.headers, body, context).await?;
    let mut tx = state.begin(&caller).await?;
    let enqueued = state
        .engine()
        .enqueue_all(&mut tx, caller.tenant, jobs, Quota::Enforce)
        .await?;
    let inserted = enqueued
        .iter()
        .filter(|job| matches!(job, Enqueued::New(_)))
        .count();
    if caller.is_user() {
        let entry = Entry::new("job.enqueue", "").after(serde_json::json!({"jobs": inserted}));
        caller.record(&mut tx, &entry).await?;
    }
    tx.commit().await?;
    let response = BatchResponse {
        inserted,
        existing: enqueued.len() - inserted,
        ids: enqueued.into_iter().map(Enqueued::id).collect(),
    };
    Ok((StatusCode::CREATED, Json(response)))
}

async fn read_batch(
    headers: &HeaderMap,
    body: Body,
    context: EnqueueContext,
) -> Result<Vec<NewJob>, Problem> {
    let media_type = media_type(headers);
    let chunks = if is_json(&media_type) || media_type == "application/x-ndjson" {
        Chunks::new(headers, body, BATCH_LIMIT).await?
    } else {
        return Err(unsupported(
            &media_type,
            "application/json or application/x-ndjson",
        ));
    };
    let (jobs, errors) = if is_json(&media_type) {
        let bytes = chunks.rest().await?;
        // Parsing up to 64 MiB would block this thread's other requests.
        tokio::task::spawn_blocking(move || read_object(bytes, &context))
            .await
            .map_err(Problem::internal)??
    } else {
        read_lines(chunks, &context).await?
    };
    errors.into_body_result()?;
    Ok(jobs)
}

type ReadJobs = (Vec<NewJob>, FieldErrors);

fn read_object(bytes: Vec<u8>, context: &EnqueueContext) -> Result<ReadJobs, Problem> {
    let text = json_text(bytes)?;
    let mut errors = FieldErrors::default();
    let jobs = read_jobs(split_jobs(&text, &mut errors), context, &mut errors);
    Ok((jobs, errors))
}

fn read_jobs(
    texts: Vec<&RawValue>,
    context: &EnqueueContext,
    errors: &mut FieldErrors,
) -> Vec<NewJob> {
    let mut jobs = Vec::with_capacity(texts.len());
    for (index, text) in texts.into_iter().enumerate() {
        if errors.is_full() {
            break;
        }
        jobs.extend(read_job(
            text.get(),
            &format!("/jobs/{index}"),
            context,
            errors,
        ));
    }
    jobs
}

/// Splits `{"jobs": […]}` into the texts of its jobs. Returns none beyond [`MAX_BATCH_JOBS`], so that a
/// body with millions of empty jobs costs no memory.
fn split_jobs<'a>(text: &'a str, errors: &mut FieldErrors) -> Vec<&'a RawValue> {
    if !json::is_object(text) {
        errors.add(
            "",
            "",
            "invalid",
            "must be an object with the member `jobs`",
        );
        return Vec::new();
    }
    let mut decoder = serde_json::Deserializer::from_str(text);
    match decoder.deserialize_map(Envelope(errors)) {
        Ok(Some(jobs)) if !jobs.is_empty() => return jobs,
        Ok(Some(_)) => errors.add(
            "",
            "/jobs",
            "empty",
            format!("must have 1 to {MAX_BATCH_JOBS} items"),
        ),
        Ok(None) => errors.add("", "/jobs", "missing", "is required"),
        // The syntax has been checked; the remaining error is a member name with an unpaired surrogate.
        Err(error) => errors.add("", "", "invalid", message(&error)),
    }
    Vec::new()
}

/// Visits the members of the object around the jobs.
struct Envelope<'f>(&'f mut FieldErrors);

impl<'de> Visitor<'de> for Envelope<'_> {
    type Value = Option<Vec<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut jobs = None;
        while let Some(name) = members.next_key::<String>()? {
            if name != "jobs" {
                members.next_value::<IgnoredAny>()?;
                let pointer = json::pointer_token(&name);
                self.0.add(
                    "",
                    &pointer,
                    "unknown_field",
                    "unknown member; expected `jobs`",
                );
                continue;
            }
            let text = members.next_value::<&RawValue>()?;
            if jobs.is_some() {
                self.0.add("", "/jobs", "duplicate", "duplicate value");
                continue;
            }
            let mut decoder = serde_json::Deserializer::from_str(text.get());
            let bounded = decoder.deserialize_seq(BoundedJobs(self.0));
            jobs = Some(bounded.unwrap_or_else(|_| {
                self.0
                    .add("", "/jobs", "invalid", "must be an array of jobs");
                Vec::new()
            }));
        }
        Ok(jobs)
    }
}

/// Visits an array of jobs, up to [`MAX_BATCH_JOBS`].
struct BoundedJobs<'f>(&'f mut FieldErrors);

impl<'de> Visitor<'de> for BoundedJobs<'_> {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut jobs = Vec::new();
        while jobs.len() < MAX_BATCH_JOBS {
            match items.next_element()? {
                Some(job) => jobs.push(job),
                None => return Ok(jobs),
            }
        }
        let mut has_more = false;
        while items.next_element::<IgnoredAny>()?.is_some() {
            has_more = true;
        }
        if has_more {
            add_too_many(self.0);
        }
        Ok(jobs)
    }
}

fn add_too_many(errors: &mut FieldErrors) {
    errors.add(
        "",
        "/jobs",
        "too_many",
        format!("must have at most {MAX_BATCH_JOBS} items"),
    );
}

/// Reads one job per line while the body arrives. Empty lines are ignored.
async fn read_lines(mut chunks: Chunks, context: &EnqueueContext) -> Result<ReadJobs, Problem> {
    let mut lines = LineReader {
        context,
        jobs: Vec::new(),
        count: 0,
        number: 0,
        errors: FieldErrors::default(),
    };
    let mut partial_line: Vec<u8> = Vec::new();
    while let Some(chunk) = chunks.next().await? {
        lines.push_chunk(&mut partial_line, &chunk)?;
        if lines.errors.is_full() || lines.count > MAX_BATCH_JOBS {
            // The batch will be rejected, so the rest of the body does not matter.
            chunks.discard().await?;
            return Ok((Vec::new(), lines.errors));
        }
    }
    lines.line(&partial_line)?;
    if lines.count == 0 {
        lines.errors.add(
            "",
            "/jobs",
            "empty",
            format!("must have 1 to {MAX_BATCH_JOBS} lines"),
        );
    }
    Ok((lines.jobs, lines.errors))
}

struct LineReader<'r> {
    context: &'r EnqueueContext,
    jobs: Vec<NewJob>,
    /// Jobs read, valid or not.
    count: usize,
    /// LineReader read, including empty ones.
    number: usize,
    errors: FieldErrors,
}

impl LineReader<'_> {
    /// Reads the next part of the body. `partial_line` holds the start of an unfinished line.
    fn push_chunk(&mut self, partial_line: &mut Vec<u8>, chunk: &Bytes) -> Result<(), Problem> {
        let mut pieces = chunk.split(|byte| *byte == b'\n');
        // What follows the last line feed is the start of the next line.
        let last = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            partial_line.extend_from_slice(piece);
            self.line(partial_line)?;
            partial_line.clear();
        }
        partial_line.extend_from_slice(last);
        if partial_line.len() > MAX_LINE_BYTES {
            let detail = format!(
                "line {} is longer than {MAX_LINE_BYTES} bytes",
                self.number + 1
            );
            return Err(Problem::new(Code::BodyTooLarge, detail));
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Problem> {
        self.number += 1;
        if line.trim_ascii().is_empty() || self.errors.is_full() {
            return Ok(());
        }
        let prefix = format!("/jobs/{}", self.count);
        self.count += 1;
        if self.count > MAX_BATCH_JOBS {
            add_too_many(&mut self.errors);
            return Ok(());
        }
        let malformed = |reason: String| {
            let detail = format!("line {} is not valid JSON: {reason}", self.number);
            let mut errors = FieldErrors::default();
            errors.add(&prefix, "", "malformed", reason);
            Problem::new(Code::MalformedBody, detail).with_field_errors(errors.into_vec())
        };
        let text = std::str::from_utf8(line).map_err(|error| malformed(error.to_string()))?;
        json::check_syntax(text).map_err(|error| malformed(error.to_string()))?;
        self.jobs
            .extend(read_job(text, &prefix, self.context, &mut self.errors));
        Ok(())
    }
}
