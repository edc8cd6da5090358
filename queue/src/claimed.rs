//! A claimed job and the parcel it was claimed in, as a worker holds them in memory.
//!
//! Plain data: the claim builds it, the run layer reads it and the settlement names rows by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_shared::backoff::Backoff;
use harkara_shared::id::{JobId, TenantId};
use serde_json::value::RawValue;

use crate::envelope::Envelope;
use crate::job::Trace;

/// Memory that a job takes beside its payload, in bytes: the rest of its body and its entries in the
/// worker's tables.
const JOB_OVERHEAD_BYTES: u64 = 1024;

/// Identifies a claimed row and the claim of it: tenant number, parcel id, part and fencing token.
pub(crate) type ParcelKey = (i32, i64, i16, i64);

/// A claimed row of `queue.parcels`: one claim of one or more jobs.
#[derive(Debug)]
pub(crate) struct ClaimedParcel {
    /// Internal number of the tenant.
    pub(crate) tenant: i32,
    pub(crate) id: i64,
    /// Tells apart the rows that a parcel was split into.
    pub(crate) part: i16,
    /// Fencing token of the claim. All rows of one claim share it.
    pub(crate) token: i64,
    /// Lease under which the row was claimed.
    pub(crate) lease: i64,
    pub(crate) lane: i64,
    /// Internal number of the queue.
    pub(crate) queue: i32,
    /// Internal number of the kind.
    pub(crate) kind: i32,
    pub(crate) priority: i16,
    /// Members of the row, including those that have already left it.
    pub(crate) size: i16,
    /// An earlier worker was lost while it held this job.
    pub(crate) lost: bool,
    /// A `RateLimited` verdict closes the lane: its jobs name a key or limits.
    pub(crate) parks: bool,
    /// The circuit breaker of the lane lets this run through as a trial.
    pub(crate) trial: bool,
    /// Members whose outcomes are not written yet.
    unwritten: AtomicU32,
}

impl ClaimedParcel {
    pub(crate) fn new(row: ParcelRow, unwritten: u32) -> Self {
        Self {
            tenant: row.tenant,
            id: row.id,
            part: row.part,
            token: row.token,
            lease: row.lease,
            lane: row.lane,
            queue: row.queue,
            kind: row.kind,
            priority: row.priority,
            size: row.size,
            lost: row.lost,
            parks: row.parks,
            trial: row.trial,
            unwritten: AtomicU32::new(unwritten),
        }
    }

    /// Whether the row holds exactly one job.
    pub(crate) fn is_single(&self) -> bool {
        self.size == 1
    }

    /// Members whose outcomes are not written yet.
    pub(crate) fn unwritten(&self) -> u32 {
        self.unwritten.load(Ordering::Relaxed)
    }

    /// Records that the outcomes of `members` members are written.
    pub(crate) fn mark_written(&self, members: u32) {
        self.unwritten.fetch_sub(members, Ordering::Relaxed);
    }

    pub(crate) fn key(&self) -> ParcelKey {
        (self.tenant, self.id, self.part, self.token)
    }

    /// A parcel of one job that exists in no table.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn test() -> Self {
        let row = ParcelRow {
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
        };
        Self::new(row, 1)
    }
}

/// The fields of a [`ClaimedParcel`] as the database returned them.
#[derive(Debug)]
pub(crate) struct ParcelRow {
    pub(crate) tenant: i32,
    pub(crate) id: i64,
    pub(crate) part: i16,
    pub(crate) token: i64,
    pub(crate) lease: i64,
    pub(crate) lane: i64,
    pub(crate) queue: i32,
    pub(crate) kind: i32,
    pub(crate) priority: i16,
    pub(crate) size: i16,
    pub(crate) lost: bool,
    pub(crate) parks: bool,
    pub(crate) trial: bool,
}

/// A job that this worker may run until its lease ends.
#[derive(Debug, Clone)]
pub struct ClaimedJob {
    /// The job's public id.
    pub id: JobId,
    /// The tenant the job belongs to.
    pub tenant: TenantId,
    /// Name of the kind, which selects the handler.
    pub kind: Arc<str>,
    /// Number of this run, counted against `max_attempts`; 1 for the first.
    pub attempt: u16,
    /// How many runs may fail before the job is dead.
    pub max_attempts: u16,
    /// When the job was due.
    pub run_at: DateTime<Utc>,
    /// When the job was claimed.
    pub started_at: DateTime<Utc>,
    /// How often the job was deferred without using an attempt.
    pub(crate) deferrals: u16,
    pub(crate) parcel: Arc<ClaimedParcel>,
    /// Position of the job in its parcel, from 1.
    pub(crate) member: i16,
    /// The decoded body, or why it could not be decoded.
    pub(crate) body: Result<Arc<Envelope>, Arc<str>>,
}

impl ClaimedJob {
    /// The payload. JSON `null` if the stored body cannot be decoded; such a job never reaches a
    /// handler.
    #[must_use]
    pub fn payload(&self) -> &RawValue {
        self.body
            .as_ref()
            .map_or(RawValue::NULL, |body| &body.payload)
    }

    /// The trace context the job was enqueued with.
    #[must_use]
    pub fn trace(&self) -> Trace {
        self.body
            .as_ref()
            .map(|body| body.trace.clone())
            .unwrap_or_default()
    }

    /// Whether this run is the trial of the lane's circuit breaker: the lane's only run, which decides
    /// whether the lane opens again. A failure of a trial uses no attempt.
    #[must_use]
    pub fn is_trial(&self) -> bool {
        self.parcel.trial
    }

    /// Whether the job is dead if this run fails. Never true for a trial.
    #[must_use]
    pub fn is_last_attempt(&self) -> bool {
        self.attempt >= self.max_attempts && !self.is_trial()
    }

    /// Memory that the job takes, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let payload = self
            .body
            .as_ref()
            .map_or(0, |body| body.payload.get().len());
        u64::try_from(payload)
            .unwrap_or(u64::MAX)
            .saturating_add(JOB_OVERHEAD_BYTES)
    }

    /// Delays between failed runs.
    pub(crate) fn backoff(&self) -> Backoff {
        self.body
            .as_ref()
            .map(|body| body.backoff)
            .unwrap_or_default()
    }

    /// Longest time the run may take. Zero if the stored body cannot be decoded.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.body
            .as_ref()
            .map(|body| body.timeout())
            .unwrap_or_default()
    }
}
