//! Claims ready jobs for one worker.
//!
//! A worker first finds the lanes that have ready jobs ([`Engine::find_ready_lanes`]), then claims from
//! lanes it has chosen, up to its free capacity ([`Engine::claim`]). A claim returns jobs fenced by a
//! token and, for each lane, whether it can give more. Nothing is claimed under a lease that has
//! expired. Bodies are decoded here, but payloads are not, and no run is timed or limited.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use harkara_shared::database::{query, query_as};
use harkara_shared::id::JobId;
use rand::RngExt;
use sqlx::{FromRow, Row};

use crate::claimed::{ClaimedJob, ClaimedParcel, ParcelRow};
use crate::engine::Engine;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::ids;

/// The lanes of one queue whose ids lie between two bounds, both exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneRange {
    pub(crate) queue: i32,
    pub(crate) after: i64,
    pub(crate) before: i64,
}

/// A lane that has ready jobs. A search returns a lane twice if it has both lost and other jobs.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct ReadyLane {
    pub(crate) queue: i32,
    pub(crate) lane: i64,
    #[sqlx(rename = "nth", try_from = "Option<i32>")]
    pub(crate) found_by: FoundBy,
    pub(crate) tenant: i32,
    pub(crate) lane_weight: i16,
    pub(crate) tenant_weight: i16,
    /// An operator has paused the lane or its tenant.
    pub(crate) is_paused: bool,
    /// The lane has a key and runs its jobs concurrently.
    pub(crate) is_keyed: bool,
    /// Milliseconds until the lane's parking ends. `None` if the lane is not parked.
    pub(crate) wait_ms: Option<i64>,
}

/// The jobs by which a search found a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FoundBy {
    /// Jobs that are not lost. Holds the position of the lane among the lanes that its range returned,
    /// counted from 1.
    Jobs(i32),
    /// Lost jobs: the worker that held them before lost its lease.
    LostJobs,
}

impl From<Option<i32>> for FoundBy {
    fn from(nth: Option<i32>) -> Self {
        nth.map_or(Self::LostJobs, Self::Jobs)
    }
}

/// How much to claim from one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneClaim {
    pub(crate) lane: i64,
    /// Number of jobs to claim. A lane without limits gives whole rows, so the claim can return more.
    pub(crate) jobs: i32,
    /// Maximum rows to read for these jobs.
    pub(crate) max_rows: i32,
    pub(crate) start: ScanStart,
}

/// Where the scan of a lane's rows begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScanStart {
    /// At the first row.
    First,
    /// At the first row of the priority whose first row has waited longest.
    LongestWaiting,
    /// At a position reached by an earlier claim.
    At(ScanPosition),
}

impl ScanStart {
    /// The two arguments of the SQL function that encode the start: priority and due time.
    fn to_arguments(self) -> (Option<i16>, Option<DateTime<Utc>>) {
        match self {
            Self::First => (None, None),
            Self::LongestWaiting => (Some(-1), None),
            Self::At(position) => (Some(position.priority), Some(position.run_at)),
        }
    }
}

/// A position in a lane. Positions compare in scan order: by priority, then due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ScanPosition {
    pub(crate) priority: i16,
    pub(crate) run_at: DateTime<Utc>,
}

impl ScanPosition {
    /// The position of the row that holds `job`.
    pub(crate) fn of(job: &ClaimedJob) -> Self {
        Self {
            priority: job.parcel.priority,
            run_at: job.run_at,
        }
    }
}

/// What a claim found in one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneOutcome {
    pub(crate) lane: i64,
    /// Number of rows claimed from the lane.
    pub(crate) rows: u32,
    pub(crate) availability: LaneAvailability,
}

/// Whether a lane can give more jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneAvailability {
    /// It gave the jobs that were to be claimed and may have more.
    More,
    /// No more ready jobs follow the start of the scan.
    Exhausted,
    /// A rate limit, a parking or a concurrent claim closes the lane for this long.
    ClosedFor(Duration),
    /// The lane is closed for an unknown time: until a running job of the lane or of one of its limits
    /// ends. Also reported for a lane that was paused after it was found.
    Blocked,
}

/// How much a worker can claim from one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClaimCapacity {
    /// Free slots: jobs that can start at once.
    pub(crate) slots: u32,
    /// Further jobs that may wait in memory for a slot.
    pub(crate) prefetch: u32,
    /// Memory for the bodies of all claimed jobs, in bytes.
    pub(crate) bytes: u32,
    /// Whether lost jobs may be claimed: jobs whose earlier worker lost its lease, possibly because
    /// they crashed it.
    pub(crate) accepts_lost_jobs: bool,
}

impl ClaimCapacity {
    /// Number of jobs that can be claimed.
    pub(crate) fn jobs(&self) -> u32 {
        self.slots + self.prefetch
    }
}

/// The result of one claim.
#[derive(Debug, Default)]
pub(crate) struct ClaimBatch {
    pub(crate) jobs: Vec<ClaimedJob>,
    /// One entry for each lane that was tried; empty if the queue is paused or the lease has expired.
    pub(crate) lanes: Vec<LaneOutcome>,
}

/// A row of the claim's result that describes a lane.
#[derive(sqlx::FromRow)]
struct LaneRow {
    lane: i64,
    is_closed: bool,
    wait_ms: Option<i64>,
    is_exhausted: bool,
    claimed_rows: i32,
}

/// A row of the claim's result that holds a claimed parcel.
#[derive(sqlx::FromRow)]
struct ClaimedRow {
    lane: i64,
    token: i64,
    id: i64,
    part: i16,
    tenant: i32,
    kind: i32,
    priority: i16,
    attempt: i16,
    max_attempts: i16,
    deferrals: i16,
    lo: i16,
    n: i16,
    ids: Option<Vec<i64>>,
    gone: Option<Vec<i16>>,
    run_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    lost: bool,
    parks: bool,
    trial: bool,
    queue: i32,
    body: Vec<Vec<u8>>,
}

impl LaneRow {
    fn outcome(&self) -> LaneOutcome {
        // A lane that opens in the past is open.
        let wait = self
            .wait_ms
            .map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
        let availability = match (self.is_closed, wait) {
            (true, Some(wait)) => LaneAvailability::ClosedFor(wait),
            (true, None) => LaneAvailability::Blocked,
            (false, _) if self.is_exhausted => LaneAvailability::Exhausted,
            (false, _) => LaneAvailability::More,
        };
        LaneOutcome {
            lane: self.lane,
            rows: self.claimed_rows.unsigned_abs(),
            availability,
        }
    }
}

impl Engine {
    /// Returns the lanes within `ranges` that have ready jobs, at most `limit` for each range.
    pub(crate) async fn find_ready_lanes(
        &self,
        ranges: &[LaneRange],
        limit: i32,
    ) -> Result<Vec<ReadyLane>, Error> {
        let queues: Vec<i32> = ranges.iter().map(|range| range.queue).collect();
        let after: Vec<i64> = ranges.iter().map(|range| range.after).collect();
        let before: Vec<i64> = ranges.iter().map(|range| range.before).collect();
        Ok(query_as(include_str!("claim/find_ready_lanes.sql"))
            .bind(queues)
            .bind(after)
            .bind(before)
            .bind(limit)
            .fetch_all(self.pool())
            .await?)
    }

    /// Claims jobs of `queue` under `lease` from the lanes in `claims`, as far as limits and `capacity`
    /// allow. Claims nothing if the lease has expired.
    ///
    /// The claim commits without waiting for the disk: a claim lost in a crash of the database is
    /// claimed again, and the durable settlement of a job makes the claim before it durable too. The
    /// claim is one statement and its own transaction, so it takes effect completely or not at all,
    /// even if the caller is dropped. [`Engine::find_lost_claims`] finds a claim whose response was lost.
    pub(crate) async fn claim(
        &self,
        queue: i32,
        lease: i64,
        claims: &[LaneClaim],
        capacity: ClaimCapacity,
    ) -> Result<ClaimBatch, Error> {
        let token: i64 = rand::rng().random_range(1..=i64::MAX);
        let (priorities, run_ats): (Vec<_>, Vec<_>) = claims
            .iter()
            .map(|claim| claim.start.to_arguments())
            .unzip();
        let mut rows = query(include_str!("claim/claim_jobs.sql"))
            .bind(queue)
            .bind(lease)
            .bind(token)
            .bind(claims.iter().map(|claim| claim.lane).collect::<Vec<_>>())
            .bind(claims.iter().map(|claim| claim.jobs).collect::<Vec<_>>())
            .bind(
                claims
                    .iter()
                    .map(|claim| claim.max_rows)
                    .collect::<Vec<_>>(),
            )
            .bind(priorities)
            .bind(run_ats)
            .bind(i32::try_from(capacity.slots).unwrap_or(i32::MAX))
            .bind(i32::try_from(capacity.prefetch).unwrap_or(i32::MAX))
            .bind(i32::try_from(capacity.bytes).unwrap_or(i32::MAX))
            .bind(capacity.accepts_lost_jobs)
            .fetch(self.pool());
        // Streamed, so that the bodies are not in memory twice.
        let mut batch = ClaimBatch::default();
        while let Some(row) = rows.try_next().await? {
            // A row without an id describes a lane.
            if row.try_get::<Option<i64>, _>("id")?.is_none() {
                batch.lanes.push(LaneRow::from_row(&row)?.outcome());
            } else {
                let row = ClaimedRow::from_row(&row)?;
                self.unpack(row, lease, &mut batch.jobs).await?;
            }
        }
        if !batch.jobs.is_empty() {
            self.schedule_rollup();
        }
        Ok(batch)
    }

    /// Returns the jobs claimed under `lease` by a token that is not among `known_tokens`: jobs whose claim
    /// took effect although the response never reached the worker.
    pub(crate) async fn find_lost_claims(
        &self,
        lease: i64,
        known_tokens: &[i64],
    ) -> Result<Vec<ClaimedJob>, Error> {
        let rows: Vec<ClaimedRow> = query_as(include_str!("claim/find_lost_claims.sql"))
            .bind(lease)
            .bind(known_tokens)
            .fetch_all(self.pool())
            .await?;
        let mut jobs = Vec::new();
        for row in rows {
            self.unpack(row, lease, &mut jobs).await?;
        }
        Ok(jobs)
    }

    /// Appends the jobs of a claimed row to `jobs`.
    async fn unpack(
        &self,
        row: ClaimedRow,
        lease: i64,
        jobs: &mut Vec<ClaimedJob>,
    ) -> Result<(), Error> {
        let tenant = self.interner().tenant_id(row.tenant).await?;
        let kind = self.interner().kind_name(row.kind).await?;
        // An impossible value must not fail the claim, which would stop this worker for as long as the
        // row exists. Like an undecodable body, it ends the job before its handler is called.
        let mut corrupt: Option<String> = None;
        let mut count = |column: &str, value: i16| {
            u16::try_from(value).unwrap_or_else(|_| {
                corrupt = Some(format!("column {column} is {value}"));
                0
            })
        };
        let attempt = count("attempt", row.attempt);
        let max_attempts = count("max_attempts", row.max_attempts);
        let deferrals = count("deferrals", row.deferrals);
        let size = usize::from(count("n", row.n));
        let started_at = row.started_at.unwrap_or_else(|| {
            corrupt = Some("column started_at is null".to_owned());
            row.run_at
        });
        let corrupt: Option<Arc<str>> = corrupt.map(Into::into);
        let gone = row.gone.unwrap_or_default();
        let present = size.saturating_sub(gone.len());
        let parcel = ParcelRow {
            tenant: row.tenant,
            id: row.id,
            part: row.part,
            token: row.token,
            lease,
            lane: row.lane,
            queue: row.queue,
            kind: row.kind,
            priority: row.priority,
            size: row.n,
            lost: row.lost,
            parks: row.parks,
            trial: row.trial,
        };
        let unwritten = u32::try_from(present).unwrap_or(u32::MAX);
        let parcel = Arc::new(ClaimedParcel::new(parcel, unwritten));
        jobs.reserve(present);
        for (member, (index, body)) in (1i16..).zip(row.body.iter().enumerate()) {
            if gone.contains(&member) {
                continue;
            }
            let id = match row.ids.as_ref().and_then(|ids| ids.get(index)) {
                Some(id) => JobId::from_i64(*id),
                None => ids::member_of(row.id, i64::from(row.lo) + i64::from(member) - 1),
            };
            jobs.push(ClaimedJob {
                id,
                tenant,
                kind: Arc::clone(&kind),
                attempt,
                max_attempts,
                run_at: row.run_at,
                started_at,
                deferrals,
                parcel: Arc::clone(&parcel),
                member,
                body: match &corrupt {
                    Some(reason) => Err(Arc::clone(reason)),
                    None => Envelope::decode(body)
                        .map(Arc::new)
                        .map_err(|error| error.to_string().into()),
                },
            });
        }
        Ok(())
    }
}
