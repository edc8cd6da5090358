//! Room: claim.
//! Takes: lanes chosen by a worker, its free places and a live lease. Gives: [`Claimed`] jobs, fenced
//! by a token, and what is known of the lanes that gave none.
//! Never: decodes a payload, times or limits a run: that is the run room's work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use harkara_shared::backoff::Backoff;
use harkara_shared::database::{query, query_as};
use harkara_shared::id::{JobId, TenantId};
use rand::RngExt;
use serde_json::value::RawValue;
use sqlx::{FromRow, Row};

use crate::engine::Engine;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::ids;
use crate::job::Trace;
use crate::settle::Key;

/// Bytes that a job weighs beside its payload: the rest of its body, its places in the worker's tables.
const OVERHEAD: u64 = 1024;

/// A row of the table under a lease: one claim of one or more jobs.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) tenant: i32,
    pub(crate) id: i64,
    pub(crate) part: i16,
    pub(crate) token: i64,
    pub(crate) lease: i64,
    pub(crate) lane: i64,
    pub(crate) queue: i32,
    pub(crate) kind: i32,
    pub(crate) priority: i16,
    /// Members of the row, those that are gone included.
    pub(crate) size: i16,
    /// Somebody's worker died under this job.
    pub(crate) lost: bool,
    /// Its lane closes when the other side asks for rest: its jobs name a key, or limits.
    pub(crate) parks: bool,
    /// The breaker of its lane let it through to see what comes of it.
    pub(crate) trial: bool,
    /// Members whose endings are not written yet.
    left: AtomicU32,
}

impl Parcel {
    /// Whether the row holds nothing but one job.
    pub(crate) fn is_single(&self) -> bool {
        self.size == 1
    }

    /// Members whose endings are not written yet.
    pub(crate) fn left(&self) -> u32 {
        self.left.load(Ordering::Relaxed)
    }

    /// The endings of so many members are written.
    pub(crate) fn wrote(&self, members: u32) {
        self.left.fetch_sub(members, Ordering::Relaxed);
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn test() -> Self {
        Self {
            tenant: 1,
            id: 1,
            part: 0,
            token: 1,
            lease: 1,
            lane: 1,
            queue: 1,
            kind: 1,
            priority: 5,
            size: 1,
            lost: false,
            parks: false,
            trial: false,
            left: AtomicU32::new(1),
        }
    }

    /// What names the row, and the claim of it.
    pub(crate) fn key(&self) -> Key {
        (self.tenant, self.id, self.part, self.token)
    }
}

/// A job this worker may run until its lease ends.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// Id.
    pub id: JobId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Kind.
    pub kind: Arc<str>,
    /// The run about to begin, counted against `max_attempts`; 1 for the first.
    pub attempt: u16,
    /// Runs that may fail before the job is dead.
    pub max_attempts: u16,
    /// When its parcel was due.
    pub run_at: DateTime<Utc>,
    /// When it was claimed.
    pub started_at: DateTime<Utc>,
    /// How often it was put off.
    pub(crate) deferrals: u16,
    pub(crate) parcel: Arc<Parcel>,
    /// Its number in the parcel, from 1.
    pub(crate) member: i16,
    pub(crate) body: Result<Arc<Envelope>, Arc<str>>,
}

impl Claimed {
    /// The payload; JSON `null` for a job whose body cannot be read, which never reaches a handler.
    #[must_use]
    pub fn payload(&self) -> &RawValue {
        self.body
            .as_ref()
            .map_or(RawValue::NULL, |body| &body.payload)
    }

    /// Where the job came from.
    #[must_use]
    pub fn trace(&self) -> Trace {
        self.body
            .as_ref()
            .map(|body| body.trace.clone())
            .unwrap_or_default()
    }

    /// Whether the breaker of its lane has this run tried alone, to see whether the lane may go on. A
    /// failure of such a run uses up no attempt.
    #[must_use]
    pub fn is_trial(&self) -> bool {
        self.parcel.trial
    }

    /// Whether a failure of this run is the job's last: never in a trial.
    #[must_use]
    pub fn is_last_attempt(&self) -> bool {
        self.attempt >= self.max_attempts && !self.is_trial()
    }

    /// Where its row stood in its lane.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            priority: self.parcel.priority,
            run_at: self.run_at,
        }
    }

    /// What it weighs in memory, in bytes.
    pub(crate) fn weight(&self) -> u64 {
        let body = self.body.as_ref();
        let payload = body.map_or(0, |body| body.payload.get().len());
        u64::try_from(payload).unwrap_or_default() + OVERHEAD
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
            .map(|body| body.timeout())
            .unwrap_or_default()
    }
}

/// Lanes of a queue between two, neither of them included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) queue: i32,
    pub(crate) after: i64,
    pub(crate) before: i64,
}

/// A lane that has ready jobs, as a look found it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Sight {
    pub(crate) queue: i32,
    pub(crate) lane: i64,
    /// Its number in the stretch, from 1; none for a lane that was found by its lost jobs.
    pub(crate) nth: Option<i32>,
    pub(crate) tenant: i32,
    pub(crate) lane_weight: i16,
    pub(crate) tenant_weight: i16,
    pub(crate) paused: bool,
    /// Its jobs name a key, and run side by side.
    pub(crate) named: bool,
    /// Milliseconds until it opens by itself.
    pub(crate) wait_ms: Option<i64>,
}

/// What a claim asks of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Portion {
    pub(crate) lane: i64,
    /// Jobs it should have.
    pub(crate) share: i32,
    /// Rows that make so many.
    pub(crate) depth: i32,
    pub(crate) from: Begin,
}

/// From where a lane's rows are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// The first.
    First,
    /// The first of the priority whose first has waited longest.
    LongestWaiting,
    /// This place in their order.
    At(Mark),
}

impl Begin {
    /// As `queue.claim` is told it: priority and moment.
    fn columns(self) -> (Option<i16>, Option<DateTime<Utc>>) {
        match self {
            Self::First => (None, None),
            Self::LongestWaiting => (Some(-1), None),
            Self::At(mark) => (Some(mark.priority), Some(mark.run_at)),
        }
    }
}

/// A place in the order of a lane's rows: priority and due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    pub(crate) priority: i16,
    pub(crate) run_at: DateTime<Utc>,
}

/// What a claim learnt of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) lane: i64,
    /// Rows it gave.
    pub(crate) rows: u32,
    pub(crate) state: LaneState,
}

/// Whether a lane that was asked may give more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneState {
    /// It had its share and may have more.
    More,
    /// Nothing more is ready in it.
    Spent,
    /// It opens after this long.
    ClosedFor(Duration),
    /// It opens when something else ends.
    Closed,
}

/// How much a worker can take of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// Jobs that may start at once.
    pub(crate) places: u32,
    /// Further ones that may wait in its hand for a moment.
    pub(crate) ahead: u32,
    /// Bytes that their bodies may weigh.
    pub(crate) bytes: u32,
    /// It holds no job under which a worker has died.
    pub(crate) lost: bool,
}

/// Answer of one claim.
#[derive(Debug, Default)]
pub(crate) struct Take {
    pub(crate) jobs: Vec<Claimed>,
    pub(crate) reports: Vec<Report>,
}

/// What a claim answers of a lane.
#[derive(sqlx::FromRow)]
struct LaneRow {
    lane: i64,
    closed: bool,
    wait_ms: Option<i64>,
    spent: bool,
    drawn: i32,
}

#[derive(sqlx::FromRow)]
struct LeasedRow {
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
    fn report(&self) -> Report {
        let wait = self
            .wait_ms
            .map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or_default()));
        let state = match (self.closed, wait) {
            (true, Some(wait)) => LaneState::ClosedFor(wait),
            (true, None) => LaneState::Closed,
            (false, _) if self.spent => LaneState::Spent,
            (false, _) => LaneState::More,
        };
        Report {
            lane: self.lane,
            rows: u32::try_from(self.drawn).unwrap_or_default(),
            state,
        }
    }
}

impl Engine {
    /// Which lanes within these stretches have ready jobs.
    pub(crate) async fn look(&self, stretches: &[Stretch], most: i32) -> Result<Vec<Sight>, Error> {
        Ok(query_as(include_str!("sql/look.sql"))
            .bind(stretches.iter().map(|one| one.queue).collect::<Vec<_>>())
            .bind(stretches.iter().map(|one| one.after).collect::<Vec<_>>())
            .bind(stretches.iter().map(|one| one.before).collect::<Vec<_>>())
            .bind(most)
            .fetch_all(self.pool())
            .await?)
    }

    /// Claims jobs of `queue` under `lease`, as the portions say and as limits allow. Nothing is
    /// claimed when the lease is no longer alive.
    ///
    /// The claim commits without waiting for the disk: a claim lost in a crash of the database is
    /// only claimed again, and a durable settlement makes the claim before it durable too. It is one
    /// statement and its own transaction, so that it is made or not made, whatever becomes of the
    /// caller; one whose answer is lost is found by [`Engine::recall`].
    pub(crate) async fn take(
        &self,
        queue: i32,
        lease: i64,
        portions: &[Portion],
        room: Room,
    ) -> Result<Take, Error> {
        let token: i64 = rand::rng().random_range(1..=i64::MAX);
        let (priorities, moments): (Vec<_>, Vec<_>) =
            portions.iter().map(|one| one.from.columns()).unzip();
        let mut rows = query(include_str!("sql/take.sql"))
            .bind(queue)
            .bind(lease)
            .bind(token)
            .bind(portions.iter().map(|one| one.lane).collect::<Vec<_>>())
            .bind(portions.iter().map(|one| one.share).collect::<Vec<_>>())
            .bind(portions.iter().map(|one| one.depth).collect::<Vec<_>>())
            .bind(priorities)
            .bind(moments)
            .bind(i32::try_from(room.places).unwrap_or(i32::MAX))
            .bind(i32::try_from(room.ahead).unwrap_or(i32::MAX))
            .bind(i32::try_from(room.bytes).unwrap_or(i32::MAX))
            .bind(room.lost)
            .fetch(self.pool());
        // Row by row: bodies are not held twice.
        let mut take = Take::default();
        while let Some(row) = rows.try_next().await? {
            // A line without an id is about a lane.
            if row.try_get::<Option<i64>, _>("id")?.is_none() {
                take.reports.push(LaneRow::from_row(&row)?.report());
            } else {
                let row = LeasedRow::from_row(&row)?;
                self.open(row, lease, &mut take.jobs).await?;
            }
        }
        if !take.jobs.is_empty() {
            self.schedule_rollup();
        }
        Ok(take)
    }

    /// The jobs claimed under `lease` by none of the `known` tokens: whoever holds the lease never
    /// had them in hand.
    pub(crate) async fn recall(&self, lease: i64, known: &[i64]) -> Result<Vec<Claimed>, Error> {
        let rows: Vec<LeasedRow> = query_as(include_str!("sql/recall.sql"))
            .bind(lease)
            .bind(known)
            .fetch_all(self.pool())
            .await?;
        let mut jobs = Vec::new();
        for row in rows {
            self.open(row, lease, &mut jobs).await?;
        }
        Ok(jobs)
    }

    /// The jobs of a leased row.
    async fn open(&self, row: LeasedRow, lease: i64, jobs: &mut Vec<Claimed>) -> Result<(), Error> {
        let tenant = self.interner().tenant_id(row.tenant).await?;
        let kind = self.interner().kind_name(row.kind).await?;
        let gone = row.gone.unwrap_or_default();
        let here = usize::try_from(row.n)
            .unwrap_or_default()
            .saturating_sub(gone.len());
        let parcel = Arc::new(Parcel {
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
            left: AtomicU32::new(u32::try_from(here).unwrap_or_default()),
        });
        jobs.reserve(here);
        for (member, (index, body)) in (1i16..).zip(row.body.iter().enumerate()) {
            if gone.contains(&member) {
                continue;
            }
            let id = match row.ids.as_ref().and_then(|ids| ids.get(index)) {
                Some(id) => JobId::from_i64(*id),
                None => ids::member_of(row.id, i64::from(row.lo) + i64::from(member) - 1),
            };
            jobs.push(Claimed {
                id,
                tenant,
                kind: Arc::clone(&kind),
                attempt: u16::try_from(row.attempt).unwrap_or_default(),
                max_attempts: u16::try_from(row.max_attempts).unwrap_or_default(),
                run_at: row.run_at,
                started_at: row.started_at.unwrap_or(row.run_at),
                deferrals: u16::try_from(row.deferrals).unwrap_or_default(),
                parcel: Arc::clone(&parcel),
                member,
                body: Envelope::decode(body)
                    .map(Arc::new)
                    .map_err(|error| error.to_string().into()),
            });
        }
        Ok(())
    }
}
