//! Room: many jobs in one request.
//! Takes: `{"jobs": […]}`, or one job a line as it arrives. Gives: all of them enqueued in one
//! transaction, or none and what is wrong with which.
//! Never: keeps more of a body than its jobs.

use harkara_queue::Quota;
use std::fmt;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use harkara_jobs::fault::words;
use harkara_queue::job::{Enqueued, NewJob};
use harkara_shared::audit::Entry;
use harkara_shared::clock;
use harkara_shared::id::JobId;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::request::{EnqueueContext, JobRequest, read_job};
use crate::ApiState;
use crate::access::Scope;
use crate::auth::Caller;
use crate::body::{BATCH_LIMIT, Chunks, is_json, json_text, media_type, unsupported};
use crate::faults::Faults;
use crate::json;
use crate::origin::Origin;
use crate::problem::{Code, Problem};

/// Jobs of a batch.
const MAX_BATCH_JOBS: usize = 10_000;

/// Bytes of a line: more than any job may have.
const MAX_LINE_BYTES: usize = 2 << 20;

/// Many jobs.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewJobs)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "describes what `split_jobs` reads without copying it"
)]
pub(crate) struct BatchRequest {
    /// The jobs, each as in `POST /v1/jobs`.
    #[schema(min_items = 1, max_items = 10000)]
    jobs: Vec<JobRequest>,
}

/// What came of a batch.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BatchResult)]
pub(crate) struct BatchResponse {
    /// Jobs that were enqueued.
    #[schema(example = 2)]
    inserted: usize,
    /// Jobs in whose place the holder of their unique key stands.
    #[schema(example = 0)]
    existing: usize,
    /// One id a job, in the order they were given.
    #[schema(value_type = Vec<String>, example = json!(["job_0000000000500", "job_0000000000600"]))]
    ids: Vec<JobId>,
}

/// Enqueue many jobs
///
/// All of them, or none if there is anything wrong with one; errors point at it by its index, as in
/// `/jobs/17/priority`. Up to 10 000 jobs and 64 MiB, as `{"jobs": […]}` or one job a line. Needs
/// the scope `jobs:write`.
#[utoipa::path(
    post,
    path = "/v1/jobs/batch",
    operation_id = "create_jobs",
    tag = "jobs",
    params(("traceparent" = Option<String>, Header,
        description = "W3C trace context, carried by the job and out again")),
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
        (status = 429, description = "More jobs of the tenant would wait than may (`max_waiting`), or the caller asks too often"),
    )
)]
pub(crate) async fn create_jobs(
    State(state): State<ApiState>,
    caller: Caller,
    Origin(trace): Origin,
    request: Request,
) -> Result<(StatusCode, Json<BatchResponse>), Problem> {
    caller.require(Scope::JobsWrite)?;
    let context = EnqueueContext {
        is_platform: caller.is_platform && caller.administers(),
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
    if caller.is_person() {
        let entry = Entry::new("job.enqueue", "").after(serde_json::json!({"jobs": inserted}));
        caller.record(&mut tx, &entry).await?;
    }
    tx.commit().await?;
    let answer = BatchResponse {
        inserted,
        existing: enqueued.len() - inserted,
        ids: enqueued.into_iter().map(Enqueued::id).collect(),
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

async fn read_batch(
    headers: &HeaderMap,
    body: Body,
    context: EnqueueContext,
) -> Result<Vec<NewJob>, Problem> {
    let media_type = media_type(headers);
    let chunks = if is_json(&media_type) || media_type == "application/x-ndjson" {
        Chunks::of(headers, body, BATCH_LIMIT).await?
    } else {
        return Err(unsupported(
            &media_type,
            "application/json or application/x-ndjson",
        ));
    };
    let (jobs, faults) = if is_json(&media_type) {
        let bytes = chunks.rest().await?;
        // Up to 64 MiB to parse: other requests should not wait for it.
        tokio::task::spawn_blocking(move || read_object(bytes, &context))
            .await
            .map_err(Problem::internal)??
    } else {
        read_lines(chunks, &context).await?
    };
    faults.none_in_body()?;
    Ok(jobs)
}

type ReadJobs = (Vec<NewJob>, Faults);

fn read_object(bytes: Vec<u8>, context: &EnqueueContext) -> Result<ReadJobs, Problem> {
    let text = json_text(bytes)?;
    let mut faults = Faults::default();
    let jobs = read_jobs(split_jobs(&text, &mut faults), context, &mut faults);
    Ok((jobs, faults))
}

fn read_jobs(texts: Vec<&RawValue>, context: &EnqueueContext, faults: &mut Faults) -> Vec<NewJob> {
    let mut jobs = Vec::with_capacity(texts.len());
    for (index, text) in texts.into_iter().enumerate() {
        if faults.is_full() {
            break;
        }
        jobs.extend(read_job(
            text.get(),
            &format!("/jobs/{index}"),
            context,
            faults,
        ));
    }
    jobs
}

/// The jobs of `{"jobs": […]}`, not read yet. Answers none of them has_more [`MAX_BATCH_JOBS`], so that a body
/// of millions of empty ones costs no memory.
fn split_jobs<'a>(text: &'a str, faults: &mut Faults) -> Vec<&'a RawValue> {
    if !json::is_object(text) {
        faults.add(
            "",
            "",
            "invalid",
            "must be an object with the member `jobs`",
        );
        return Vec::new();
    }
    let mut decoder = serde_json::Deserializer::from_str(text);
    match decoder.deserialize_map(Envelope(faults)) {
        Ok(Some(jobs)) if !jobs.is_empty() => return jobs,
        Ok(Some(_)) => faults.add(
            "",
            "/jobs",
            "empty",
            format!("must hold 1 to {MAX_BATCH_JOBS} jobs"),
        ),
        Ok(None) => faults.add("", "/jobs", "missing", "must be there"),
        // The syntax was checked; what is left is a name with half a surrogate pair.
        Err(error) => faults.add("", "", "invalid", words(&error)),
    }
    Vec::new()
}

/// Reads the members of the object around the jobs.
struct Envelope<'f>(&'f mut Faults);

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
                let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
                self.0
                    .add("", &pointer, "unknown_field", "is unknown; expected `jobs`");
                continue;
            }
            let text = members.next_value::<&RawValue>()?;
            if jobs.is_some() {
                self.0.add("", "/jobs", "duplicate", "stands here twice");
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

/// Reads an array of jobs as far as it may go.
struct BoundedJobs<'f>(&'f mut Faults);

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

fn add_too_many(faults: &mut Faults) {
    faults.add(
        "",
        "/jobs",
        "too_many",
        format!("must be at most {MAX_BATCH_JOBS} jobs"),
    );
}

/// Reads one job a line while the body arrives. Empty lines are no jobs.
async fn read_lines(mut chunks: Chunks, context: &EnqueueContext) -> Result<ReadJobs, Problem> {
    let mut lines = Lines {
        context,
        jobs: Vec::new(),
        count: 0,
        number: 0,
        faults: Faults::default(),
    };
    let mut partial_line: Vec<u8> = Vec::new();
    while let Some(chunk) = chunks.next().await? {
        lines.push_chunk(&mut partial_line, &chunk)?;
        if lines.faults.is_full() || lines.count > MAX_BATCH_JOBS {
            // Nothing will be enqueued: nothing more needs to be looked at.
            chunks.discard().await?;
            return Ok((Vec::new(), lines.faults));
        }
    }
    lines.line(&partial_line)?;
    if lines.count == 0 {
        lines.faults.add(
            "",
            "/jobs",
            "empty",
            format!("must be 1 to {MAX_BATCH_JOBS} lines"),
        );
    }
    Ok((lines.jobs, lines.faults))
}

struct Lines<'r> {
    context: &'r EnqueueContext,
    jobs: Vec<NewJob>,
    /// Jobs met, good or not.
    count: usize,
    /// Lines met, empty ones included.
    number: usize,
    faults: Faults,
}

impl Lines<'_> {
    /// Takes the next part of the body; `partial_line` holds the beginning of a line that has no end yet.
    fn push_chunk(&mut self, partial_line: &mut Vec<u8>, chunk: &Bytes) -> Result<(), Problem> {
        let mut pieces = chunk.split(|byte| *byte == b'\n');
        // What follows the last line end is the beginning of the next line.
        let last = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            partial_line.extend_from_slice(piece);
            self.line(partial_line)?;
            partial_line.clear();
        }
        partial_line.extend_from_slice(last);
        if partial_line.len() > MAX_LINE_BYTES {
            let detail = format!("line {} is longer than any job may be", self.number + 1);
            return Err(Problem::new(Code::BodyTooLarge, detail));
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Problem> {
        self.number += 1;
        if line.trim_ascii().is_empty() || self.faults.is_full() {
            return Ok(());
        }
        let prefix = format!("/jobs/{}", self.count);
        self.count += 1;
        if self.count > MAX_BATCH_JOBS {
            add_too_many(&mut self.faults);
            return Ok(());
        }
        let malformed = |reason: String| {
            let detail = format!("line {} is not JSON: {reason}", self.number);
            let mut faults = Faults::default();
            faults.add(&prefix, "", "malformed", reason);
            Problem::new(Code::MalformedBody, detail).with_faults(faults.into_vec())
        };
        let text = std::str::from_utf8(line).map_err(|error| malformed(error.to_string()))?;
        json::check_syntax(text).map_err(|error| malformed(error.to_string()))?;
        self.jobs
            .extend(read_job(text, &prefix, self.context, &mut self.faults));
        Ok(())
    }
}
