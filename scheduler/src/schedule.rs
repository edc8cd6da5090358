//! Schedules: enqueues the job of a due slot and advances the schedule, in one transaction.
//!
//! No slot is enqueued twice: the row is locked, the leader's term is checked in the same transaction, and the
//! slot is the job's unique key.

use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_jobs::catalogue;
use harkara_queue::job::Unique;
use harkara_queue::{Engine, Quota};
use harkara_shared::database::{query, query_as, query_scalar};
use harkara_shared::id::{ScheduleId, TenantId};
use harkara_shared::telemetry::metric;
use serde_json::value::RawValue;
use sqlx::PgPool;
use sqlx::types::Json;

use crate::leader::Candidate;
use crate::tick::tick;

/// How long a slot's unique key is held: longer than outages that operators would not notice.
const SLOT_KEY_HOLD: Duration = Duration::from_secs(7 * 24 * 60 * 60);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Queue(#[from] harkara_queue::Error),
}

#[derive(sqlx::FromRow)]
struct ScheduleRow {
    tenant_id: TenantId,
    name: String,
    cron: String,
    timezone: String,
    kind: String,
    payload: Json<Box<RawValue>>,
    next_slot: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
}

/// The built-in tenant, as the baseline migration creates it.
fn platform_tenant() -> TenantId {
    TenantId::from_uuid(sqlx::types::Uuid::from_u128(
        0x01900000_0000_7000_8000_000000000001,
    ))
}

/// Due schedules. Schedules of a tenant whose status does not permit writes are excluded; slots they miss
/// are later treated as after an outage.
pub(crate) async fn due_schedules(pool: &PgPool) -> Result<Vec<ScheduleId>, Error> {
    Ok(query_scalar(include_str!("sql/due_schedules.sql"))
        .fetch_all(pool)
        .await?)
}

/// Time until the next slot of any schedule; zero if one is overdue.
pub(crate) async fn time_to_next_slot(pool: &PgPool) -> Result<Option<Duration>, Error> {
    let seconds: Option<f64> = query_scalar(include_str!("sql/next_due.sql"))
        .fetch_optional(pool)
        .await?;
    // A negative time does not convert: the slot is overdue.
    Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()))
}

/// Enqueues the due slot, if it is still due and `term` is still valid.
pub(crate) async fn emit_slot(
    engine: &Engine,
    candidate: &Candidate,
    term: i64,
    id: ScheduleId,
) -> Result<(), Error> {
    let mut tx = engine.pool().begin().await?;
    if !candidate.lock_term(&mut tx, term).await? {
        return Ok(());
    }
    let row: Option<ScheduleRow> = query_as(include_str!("sql/lock_schedule.sql"))
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(row) = row else { return Ok(()) };
    let tick = match tick(&row.cron, &row.timezone, row.next_slot, row.now) {
        Ok(tick) => tick,
        Err(error) => {
            tracing::error!(schedule.id = %id, schedule.name = row.name, %error, "invalid schedule; pausing it");
            query("update app.schedules set paused = true where id = $1")
                .bind(id)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            return Ok(());
        }
    };
    if let Some(slot) = tick.emit {
        let kind = catalogue::find(&row.kind)
            .filter(|kind| !kind.platform_only || row.tenant_id == platform_tenant());
        match kind {
            Some(kind) => {
                let mut job = kind.job(row.payload.0);
                let key = format!("schedule:{id}:{}", slot.format("%Y-%m-%dT%H:%M:%SZ"));
                job.unique = Some(Unique {
                    key,
                    hold: Some(SLOT_KEY_HOLD),
                });
                engine
                    .enqueue(&mut tx, row.tenant_id, job, Quota::Skip)
                    .await?;
            }
            None => tracing::error!(
                schedule.id = %id, schedule.name = row.name, row.kind,
                "unknown kind for this tenant; skipping the slot"
            ),
        }
    }
    query(include_str!("sql/advance_schedule.sql"))
        .bind(id)
        .bind(tick.next)
        .bind(tick.emit)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    if let Some(slot) = tick.emit {
        metrics::counter!(metric::TICKS_EMITTED, "schedule" => row.name.clone()).increment(1);
        tracing::info!(schedule.id = %id, schedule.name = row.name, %slot, "enqueued scheduled job");
    }
    Ok(())
}
