//! Room: the route that hands out all that a tenant has.
//! Takes: a tenant. Gives: its rows and jobs, one a line, all as they were at one moment, however many
//! there are. Never: shows a secret, holds more than a few rows in memory, or lets what was cut off look
//! whole: the last line says so.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use harkara_jobs::tenancy::TABLES;
use harkara_queue::read::{self, JobFilter};
use harkara_shared::audit::{self, Entry};
use harkara_shared::database::{TenantTx, query, query_scalar};
use harkara_shared::id::{JobId, TenantId};
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::super::jobs::response::{AttemptResponse, JobResponse};
use super::find_tenant;
use crate::ApiState;
use crate::access::Scope;
use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::PathId;

/// Exports of one process at the same time: each holds a connection, and a snapshot of the database.
static EXPORT_SLOTS: Semaphore = Semaphore::const_new(2);

/// The longest that an export may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// How long a caller may take nothing.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes that are sent together.
const CHUNK_BYTES: usize = 64 * 1024;

/// Jobs read together.
const JOBS_PER_PAGE: u32 = 100;

/// One row.
#[derive(Serialize)]
struct ExportLine<'a, T> {
    table: &'a str,
    row: T,
}

/// A run, and whose it is.
#[derive(Serialize)]
struct JobAttempt {
    job_id: JobId,
    #[serde(flatten)]
    attempt: AttemptResponse,
}

/// The last line.
#[derive(Serialize)]
struct ExportEnd {
    end: bool,
    rows: u64,
}

/// Export all that a tenant has
///
/// One JSON object a line. `{"table":"events","row":{…}}` is a row of the tenant's, as it stands in the
/// database; the rows of `jobs` are like the answer of `GET /v1/jobs/{id}`, those of `attempts` like the ones
/// of `GET /v1/jobs/{id}/attempts` with the job's id. Secrets are left out. All is as it was at one moment.
/// The last line is `{"end":true,"rows":n}`: without it the export was cut off. Needs the scope
/// `tenant:admin`; for another tenant than one's own `platform:admin`.
#[utoipa::path(
    get,
    path = "/v1/tenants/{id}/export",
    operation_id = "export_tenant",
    tag = "tenants",
    params(("id" = String, Path, description = "The tenant's id or slug",
        example = "ten_01h455vb4pex5vsknk084sn02q")),
    responses((status = 200, description = "Everything, line by line", body = String,
        content_type = "application/x-ndjson",
        headers(("Content-Disposition" = String, description = "A name for the file")),
        example = "{\"table\": \"events\", \"row\": {\"id\": \"evt_01h455vb4pex5vsknk084sn02q\"}}\n"))
)]
pub(in crate::routes) async fn export_tenant(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<String>,
) -> Result<Response, Problem> {
    if !caller.administers() {
        caller.require(Scope::TenantAdmin)?;
    }
    let tenant = find_tenant(&state, &caller, &id).await?;
    // The time limit of requests ends the waiting.
    let slot = EXPORT_SLOTS.acquire().await.map_err(Problem::internal)?;
    let mut tx = TenantTx::begin(state.pool(), tenant.id).await?;
    let entry = Entry::new("tenant.export", tenant.id);
    audit::record(&mut tx, tenant.id, caller.actor(), &entry).await?;
    tx.commit().await?;
    let tx = TenantTx::snapshot(state.pool(), tenant.id).await?;
    let (chunks, received) = mpsc::channel(2);
    tokio::spawn(async move {
        let _slot = slot;
        let mut lines = LineWriter {
            chunks: chunks.clone(),
            buffer: Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4),
            rows: 0,
        };
        let written = timeout(EXPORT_TIMEOUT, write_export(tx, tenant.id, &mut lines)).await;
        let error = match written {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => Error::TooSlow,
        };
        tracing::warn!(tenant = %tenant.id, %error, "an export was cut off");
        // The connection ends, so that whoever counts on its end knows before reading the last line.
        chunks.try_send(Err(error)).ok();
    });
    let chunks = stream::unfold(received, async |mut received| {
        received.recv().await.map(|chunk| (chunk, received))
    });
    // Whoever packs the answer asks once more after its end.
    let body = Body::from_stream(chunks.fuse());
    let name = format!("attachment; filename=\"{}.ndjson\"", tenant.slug);
    let headers = [
        (CONTENT_TYPE, "application/x-ndjson".to_owned()),
        (CONTENT_DISPOSITION, name),
    ];
    Ok((headers, body).into_response())
}

/// Why an export ends before its end.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Queue(#[from] harkara_queue::Error),
    #[error("a row cannot be written: {0}")]
    Encode(#[from] serde_json::Error),
    #[error("the caller has gone")]
    Gone,
    #[error("the caller reads too slowly")]
    TooSlow,
}

/// What is written, on its way to the caller.
struct LineWriter {
    chunks: mpsc::Sender<Result<Bytes, Error>>,
    buffer: Vec<u8>,
    rows: u64,
}

impl LineWriter {
    async fn add<T: Serialize>(&mut self, table: &str, row: T) -> Result<(), Error> {
        serde_json::to_writer(&mut self.buffer, &ExportLine { table, row })?;
        self.buffer.push(b'\n');
        self.rows += 1;
        if self.buffer.len() >= CHUNK_BYTES {
            self.send().await?;
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Error> {
        let end = ExportEnd {
            end: true,
            rows: self.rows,
        };
        serde_json::to_writer(&mut self.buffer, &end)?;
        self.buffer.push(b'\n');
        self.send().await
    }

    async fn send(&mut self) -> Result<(), Error> {
        let next = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
        let chunk = Bytes::from(std::mem::replace(&mut self.buffer, next));
        match timeout(STALL_TIMEOUT, self.chunks.send(Ok(chunk))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::Gone),
            Err(_) => Err(Error::TooSlow),
        }
    }
}

async fn write_export(
    mut tx: TenantTx,
    tenant: TenantId,
    lines: &mut LineWriter,
) -> Result<(), Error> {
    write_table(&mut tx, "tenants", &[], lines).await?;
    for table in TABLES {
        write_table(&mut tx, table.name, table.left_out, lines).await?;
    }
    let mut before = None;
    loop {
        let page = read::list(
            &mut tx,
            tenant,
            &JobFilter::default(),
            before,
            JOBS_PER_PAGE,
        )
        .await?;
        for job in page.jobs {
            let id = job.id;
            lines.add("jobs", JobResponse::from(job)).await?;
            for attempt in read::attempts(&mut tx, id).await?.unwrap_or_default() {
                let attempt = JobAttempt {
                    job_id: id,
                    attempt: attempt.into(),
                };
                lines.add("attempts", attempt).await?;
            }
        }
        before = page.next_before;
        if before.is_none() {
            break;
        }
    }
    lines.end().await
}

async fn write_table(
    tx: &mut TenantTx,
    table: &str,
    left_out: &[&str],
    lines: &mut LineWriter,
) -> Result<(), Error> {
    query("select app.open_export($1, $2)")
        .bind(table)
        .bind(left_out)
        .execute(&mut **tx)
        .await?;
    loop {
        let rows: Vec<String> = query_scalar("fetch forward 50 from harkara_export")
            .fetch_all(&mut **tx)
            .await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let row = serde_json::value::RawValue::from_string(row)?;
            lines.add(table, row).await?;
        }
    }
    query("close harkara_export").execute(&mut **tx).await?;
    Ok(())
}
