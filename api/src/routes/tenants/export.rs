//! Route that exports everything a tenant has.
//!
//! Streams its rows and jobs, one per line, from one snapshot of the database. Never exports a secret and
//! never holds more than a few rows in memory. The last line marks a complete export.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use harkara_platform::tenancy::TABLES;
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
use crate::auth::{Authorized, OrPlatformAdmin, scope};
use crate::problem::Problem;
use crate::query::{PathId, TenantRef};

/// Limits the exports of one process: each holds a connection and a snapshot of the database.
static EXPORT_SLOTS: Semaphore = Semaphore::const_new(2);

/// Maximum duration of an export.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// How long the client may read nothing before the export is aborted.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Size of a chunk of the response in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// Number of jobs read per query.
const JOBS_PER_PAGE: u32 = 100;

/// One row.
#[derive(Serialize)]
struct ExportLine<'a, T> {
    table: &'a str,
    row: T,
}

/// A run, with the id of its job.
#[derive(Serialize)]
struct JobAttempt {
    job_id: JobId,
    #[serde(flatten)]
    attempt: AttemptResponse,
}

/// The last line of a complete export.
#[derive(Serialize)]
struct ExportEnd {
    end: bool,
    rows: u64,
}

/// Export all data of a tenant
///
/// Returns one JSON object per line. `{"table":"events","row":{…}}` is a row as stored in the database.
/// Rows of `jobs` look like the response of `GET /v1/jobs/{id}`, rows of `attempts` like those of
/// `GET /v1/jobs/{id}/attempts` with the job's id. Secrets are omitted. All rows are from one snapshot. The
/// last line is `{"end":true,"rows":n}`; without it the export is incomplete. Only platform administrators
/// can access tenants other than their own.
#[utoipa::path(
    get,
    path = "/v1/tenants/{id}/export",
    operation_id = "export_tenant",
    tag = "tenants",
    responses((status = 200, description = "All data, one JSON object per line", body = String,
        content_type = "application/x-ndjson",
        headers(("Content-Disposition" = String, description = "File name of the export")),
        example = "{\"table\": \"events\", \"row\": {\"id\": \"evt_01h455vb4pex5vsknk084sn02q\"}}\n"))
)]
pub(in crate::routes) async fn export_tenant(
    State(state): State<ApiState>,
    caller: Authorized<OrPlatformAdmin<scope::TenantAdmin>>,
    PathId(id): PathId<TenantRef>,
) -> Result<Response, Problem> {
    let tenant = find_tenant(&state, &caller, &id).await?;
    // The request timeout bounds this wait.
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
        tracing::warn!(tenant = %tenant.id, %error, "export aborted");
        // Abort the connection, so that a client that relies on it notices the truncation before the last
        // line.
        chunks.try_send(Err(error)).ok();
    });
    let chunks = stream::unfold(received, async |mut received| {
        received.recv().await.map(|chunk| (chunk, received))
    });
    // The compression layer polls the stream once more after its end.
    let body = Body::from_stream(chunks.fuse());
    let name = format!("attachment; filename=\"{}.ndjson\"", tenant.slug);
    let headers = [
        (CONTENT_TYPE, "application/x-ndjson".to_owned()),
        (CONTENT_DISPOSITION, name),
    ];
    Ok((headers, body).into_response())
}

/// Why an export was aborted.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Queue(#[from] harkara_queue::Error),
    #[error("could not serialize row: {0}")]
    Encode(#[from] serde_json::Error),
    #[error("client disconnected")]
    Gone,
    #[error("client reads too slowly")]
    TooSlow,
}

/// Buffers lines and sends them to the client in chunks.
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
        write_table(&mut tx, table.name, table.unexported, lines).await?;
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
    unexported: &[&str],
    lines: &mut LineWriter,
) -> Result<(), Error> {
    query("select app.open_export_cursor($1, $2)")
        .bind(table)
        .bind(unexported)
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
