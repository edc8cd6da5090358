//! Room: claim.
//! Takes: free places per queue and a live lease. Gives: [`Claimed`] jobs, fenced by a token.
//! Never: decodes a payload, times or limits a run: that is the run room's work.

use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_shared::backoff::Backoff;
use harkara_shared::database::query_as;
use harkara_shared::id::{JobId, TenantId};
use rand::RngExt;
use serde_json::value::RawValue;

use crate::engine::{Engine, Error};
use crate::envelope::Envelope;
use crate::ids;
use crate::job::Trace;

/// A job this worker may run until its lease ends.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// Id.
    pub id: JobId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Kind.
    pub kind: String,
    /// The run about to begin, counted against `max_attempts`; 1 for the first.
    pub attempt: u16,
    /// Runs that may fail before the job is dead.
    pub max_attempts: u16,
    /// When it was due.
    pub run_at: DateTime<Utc>,
    /// When it was claimed.
    pub started_at: DateTime<Utc>,
    pub(crate) parcel: i64,
    pub(crate) token: i64,
    pub(crate) lease: i64,
    pub(crate) queue: i32,
    pub(crate) deferrals: u16,
    /// `Err` holds why the body cannot be read; the run is then settled as dead.
    pub(crate) body: Result<Envelope, String>,
}

impl Claimed {
    /// What the handler is given, as JSON; `null` where the body cannot be read.
    #[must_use]
    pub fn payload(&self) -> &RawValue {
        match &self.body {
            Ok(body) => &body.payload,
            Err(_) => RawValue::NULL,
        }
    }

    /// Where the job came from.
    #[must_use]
    pub fn trace(&self) -> Trace {
        self.body
            .as_ref()
            .map(|body| body.trace.clone())
            .unwrap_or_default()
    }

    /// Whether a failure of this run is the job's last.
    #[must_use]
    pub fn is_last_attempt(&self) -> bool {
        self.attempt >= self.max_attempts
    }

    pub(crate) fn backoff(&self) -> Backoff {
        self.body
            .as_ref()
            .map(|body| body.backoff)
            .unwrap_or_default()
    }

    /// Longest run.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.body
            .as_ref()
            .map(Envelope::timeout)
            .unwrap_or_default()
    }
}

/// Places free in one queue, and where the round over its lanes stands.
#[derive(Debug, Clone)]
pub(crate) struct Want {
    pub(crate) queue: i32,
    pub(crate) free: u32,
    pub(crate) after_lane: i64,
}

/// Answer of one claim.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    pub(crate) jobs: Vec<Claimed>,
    /// Queues in which there were lanes to visit.
    pub(crate) visited: Vec<Visit>,
}

/// The lanes one claim visited in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Visit {
    pub(crate) queue: i32,
    pub(crate) lanes: i64,
    pub(crate) last: i64,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Option<i64>,
    queue: Option<i32>,
    kind: Option<String>,
    tenant_id: Option<TenantId>,
    attempt: Option<i16>,
    max_attempts: Option<i16>,
    deferrals: Option<i16>,
    run_at: Option<DateTime<Utc>>,
    started_at: Option<DateTime<Utc>>,
    lo: Option<i16>,
    token: Option<i64>,
    body: Option<Vec<u8>>,
}

#[derive(sqlx::FromRow)]
struct VisitRow {
    #[sqlx(flatten)]
    row: Row,
    visited: i32,
    lanes: i64,
    last: i64,
}

impl Row {
    /// `None` for a visit that found every parcel taken by a neighbour.
    fn claimed(self, lease: i64) -> Option<Claimed> {
        let parcel = self.id?;
        let body = self.body.unwrap_or_default();
        Some(Claimed {
            id: JobId::from_i64(ids::job_of(parcel).as_i64() + i64::from(self.lo?)),
            tenant: self.tenant_id?,
            kind: self.kind?,
            attempt: u16::try_from(self.attempt?).unwrap_or_default(),
            max_attempts: u16::try_from(self.max_attempts?).unwrap_or_default(),
            run_at: self.run_at?,
            started_at: self.started_at?,
            parcel,
            token: self.token?,
            lease,
            queue: self.queue?,
            deferrals: u16::try_from(self.deferrals?).unwrap_or_default(),
            body: Envelope::decode(&body).map_err(|error| error.to_string()),
        })
    }
}

impl Engine {
    /// Claims at most `free` jobs of each wanted queue under `lease`. Nothing is claimed when the
    /// lease is no longer alive.
    ///
    /// The claim commits without waiting for the disk: a claim lost in a crash of the database is
    /// only claimed again, and a durable settlement makes the claim before it durable too. It is one
    /// statement and its own transaction, so that it is made or not made, whatever becomes of the
    /// caller; one whose answer is lost is found by [`Engine::recall`].
    pub(crate) async fn claim(&self, lease: i64, wants: &[Want]) -> Result<Claim, Error> {
        let token: i64 = rand::rng().random_range(1..=i64::MAX);
        let free = |want: &Want| i32::try_from(want.free).unwrap_or(i32::MAX);
        let rows: Vec<VisitRow> = query_as(include_str!("sql/claim.sql"))
            .bind(wants.iter().map(|want| want.queue).collect::<Vec<_>>())
            .bind(wants.iter().map(free).collect::<Vec<_>>())
            .bind(wants.iter().map(|want| want.after_lane).collect::<Vec<_>>())
            .bind(lease)
            .bind(token)
            .fetch_all(self.pool())
            .await?;
        let mut claim = Claim::default();
        for VisitRow {
            row,
            visited,
            lanes,
            last,
        } in rows
        {
            let visit = Visit {
                queue: visited,
                lanes,
                last,
            };
            if !claim.visited.contains(&visit) {
                claim.visited.push(visit);
            }
            claim.jobs.extend(row.claimed(lease));
        }
        Ok(claim)
    }

    /// The jobs claimed under `lease` by none of the `known` tokens: whoever holds the lease never
    /// had them in hand.
    pub(crate) async fn recall(&self, lease: i64, known: &[i64]) -> Result<Vec<Claimed>, Error> {
        let rows: Vec<Row> = query_as(include_str!("sql/recall.sql"))
            .bind(lease)
            .bind(known)
            .fetch_all(self.pool())
            .await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| row.claimed(lease))
            .collect())
    }
}
