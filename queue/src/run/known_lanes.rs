//! Tracks the lanes of one queue that a worker knows, and plans which of them to claim from.
//!
//! A lane holds jobs of one tenant that share limits and pauses. Its jobs are stored as rows of one or
//! more jobs each (parcels), ordered by priority and due time. A worker learns about lanes from two
//! sources: *searches* find the lanes that have ready jobs, and *claims* report what each lane gave.
//! Nothing in this module talks to the database.
//!
//! Why a lane can give no jobs although some are ready:
//! - *paused*: an operator stopped the lane or its tenant. Paused lanes are not added; a known lane that is
//!   paused later counts as blocked until the next search.
//! - *closed*: any other reason. The worker does not claim from the lane until its `opens_at`, which is
//!   known or estimated:
//!   - *parked*: closed for a known time, because a handler reported a rate limit of the service it calls,
//!     or because a circuit breaker opened.
//!   - *rate-limited*: closed for a known time, because a limit permits no start before.
//!   - *blocked*: closed until a running job ends, in this worker or another: the lane runs its jobs one
//!     after another, or a limit on running jobs is reached.
//!
//! A *run* is one execution of a job. A *lost job* was held by a worker whose lease expired, possibly
//! because the job crashed that worker. A worker tries lost jobs one after another, so some claims accept
//! none.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::fair_share::{FairShare, WeightedLane};
use super::worker_state::LaneLoad;
use crate::claim::{
    ClaimCapacity, FoundBy, LaneAvailability, LaneClaim, LaneOutcome, ReadyLane, ScanPosition,
    ScanStart,
};

/// Maximum rows that the first claim from a lane reads, while the number of jobs per row is unknown.
const FIRST_CLAIM_ROWS: f64 = 64.0;

/// Time until the next claim from a blocked lane if no run ends in this worker: the run that blocks the
/// lane may end in another worker.
const BLOCKED_RETRY: Duration = Duration::from_secs(1);

/// Minimum time between two claims from a blocked lane while runs end in this worker.
const MIN_BLOCKED_RETRY: Duration = Duration::from_millis(2);

/// How long we trust a report that a lane is closed: its limits may change meanwhile, and notifications
/// may be lost.
const MAX_CLOSED_TRUST: Duration = Duration::from_secs(5);

/// Minimum lifetime of a [`ScanCursor`].
const MIN_CURSOR_LIFETIME: Duration = Duration::from_millis(50);

/// The cursor stays valid for this multiple of the duration of the claim that created it. A claim that
/// starts at the first row is slow while a long transaction keeps dead rows from being removed; the
/// slower such claims are, the rarer they should be.
const CURSOR_LIFETIME_FACTOR: u32 = 8;

/// Maximum lifetime of a [`ScanCursor`].
const MAX_CURSOR_LIFETIME: Duration = Duration::from_secs(1);

/// Every nth scan without a cursor starts at the priority whose first job has waited longest, so that no
/// priority waits forever behind a higher one.
const LONGEST_WAITING_EVERY: u32 = 8;

/// Maximum lanes that a search skips.
const MAX_SKIPPED_LANES: usize = 32;

/// Maximum lanes that a search returns for each range of lane ids.
pub(super) const MAX_LANES_PER_RANGE: i32 = 1000;

/// The lanes of one queue that have ready jobs, as far as this worker knows.
#[derive(Debug, Default)]
pub(super) struct KnownLanes {
    lanes: HashMap<i64, KnownLane>,
    pub(super) fair_share: FairShare,
    /// The next search covers only lanes with greater ids. 0 if it covers all lanes.
    pub(super) search_after: i64,
}

#[derive(Debug)]
struct KnownLane {
    identity: WeightedLane,
    /// The lane's jobs share a key and run concurrently. Such a lane never takes all slots, even if no
    /// other lane has ready jobs.
    is_keyed: bool,
    /// When the lane opens. `None` if it is open.
    opens_at: Option<Instant>,
    /// When the latest claim found the lane blocked. `None` if it is not known to be blocked.
    blocked_at: Option<Instant>,
    /// Moving average, at least 1. `None` before the first claim.
    jobs_per_row: Option<f64>,
    /// `None` if the next claim must not resume where an earlier one ended.
    cursor: Option<ScanCursor>,
    /// Where the latest claim started.
    last_start: ScanStart,
    /// Number of claims planned without a cursor.
    fresh_scans: u32,
    /// Number of the latest search that found or skipped the lane.
    last_search_no: u64,
    /// A search has found lost jobs. Stays true after they are claimed.
    may_have_lost_jobs: bool,
    /// A claim found no jobs that are not lost, and no search has found any since.
    known_to_have_only_lost_jobs: bool,
}

/// Where the next claim from a lane resumes, instead of reading past all rows claimed before. A job that
/// arrives in front of `position` is not seen until the cursor expires.
#[derive(Debug, Clone, Copy)]
struct ScanCursor {
    position: ScanPosition,
    expires_at: Instant,
}

/// The jobs that one claim got from one lane.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ClaimedFromLane {
    pub(super) jobs: u32,
    /// Position of the last claimed row, or of a row shortly before it. `None` if only lost jobs were
    /// claimed.
    pub(super) last_position: Option<ScanPosition>,
}

/// What a claim showed about all its lanes together.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClaimStats {
    pub(super) ended_at: Instant,
    pub(super) duration: Duration,
    /// The claim accepted lost jobs and found none in any lane.
    pub(super) lost_jobs_ruled_out: bool,
}

impl LaneLoad {
    /// How many more jobs of `lane` the worker may hold.
    fn remaining_for(&self, lane: &KnownLane) -> u32 {
        if !lane.is_keyed {
            return u32::MAX;
        }
        let held = self.held_by_lane.get(&lane.identity.lane).copied();
        self.max_per_keyed_lane
            .saturating_sub(held.unwrap_or_default())
    }
}

impl KnownLane {
    /// Moves the cursor to the end of a claim. A cursor that was used keeps its expiry; a claim from the
    /// first row creates a new one.
    fn advance_cursor(&mut self, last_position: Option<ScanPosition>, claim: ClaimStats) {
        let (start, expires_at) = match (self.cursor, self.last_start) {
            // Higher-priority rows were skipped; don't resume here.
            (_, ScanStart::LongestWaiting) => return,
            (Some(cursor), ScanStart::At(start)) => (Some(start), cursor.expires_at),
            _ => {
                let lifetime = (claim.duration * CURSOR_LIFETIME_FACTOR)
                    .clamp(MIN_CURSOR_LIFETIME, MAX_CURSOR_LIFETIME);
                (None, claim.ended_at + lifetime)
            }
        };
        // Positions compare in scan order, and `None` is less than any position: a claim without a last
        // position leaves the cursor at its start.
        let position = last_position.max(start);
        self.cursor = position.map(|position| ScanCursor {
            position,
            expires_at,
        });
    }

    /// Chooses where the next claim starts. Drops an expired cursor and counts scans without a cursor.
    fn choose_start(&mut self, now: Instant) -> ScanStart {
        self.cursor = self.cursor.filter(|cursor| cursor.expires_at > now);
        if let Some(cursor) = self.cursor {
            return ScanStart::At(cursor.position);
        }
        self.fresh_scans = self.fresh_scans.wrapping_add(1);
        if self.fresh_scans.is_multiple_of(LONGEST_WAITING_EVERY) {
            ScanStart::LongestWaiting
        } else {
            ScanStart::First
        }
    }

    /// Estimates how many rows hold `jobs` jobs.
    fn rows_for(&self, jobs: u32) -> i32 {
        let jobs = f64::from(jobs);
        let rows = self.jobs_per_row.map_or_else(
            || jobs.min(FIRST_CLAIM_ROWS),
            |jobs_per_row| (jobs / jobs_per_row).ceil(),
        );
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a whole number, and at most `jobs` because a row counts as at least one job"
        )]
        let rows = rows as i32;
        rows.max(1)
    }

    fn record_jobs_per_row(&mut self, jobs: u32, rows: u32) {
        // A corrupt row can be without jobs. An average of zero would make the next claim read
        // without bound.
        let latest = (f64::from(jobs) / f64::from(rows)).max(1.0);
        let average = self
            .jobs_per_row
            .map_or(latest, |average| (average + latest) / 2.0);
        self.jobs_per_row = Some(average);
    }

    fn has_live_cursor(&self, now: Instant) -> bool {
        self.cursor.is_some_and(|cursor| cursor.expires_at > now)
    }
}

impl KnownLanes {
    /// Returns the ranges of lane ids that search number `search_no` covers, as exclusive bounds. Skips
    /// lanes with a live cursor: they are known to have ready jobs, and to find them again the search
    /// would read past all rows claimed from them.
    pub(super) fn search_ranges(&mut self, search_no: u64, now: Instant) -> Vec<(i64, i64)> {
        let after = self.search_after;
        let mut lanes_to_skip: Vec<&mut KnownLane> = self
            .lanes
            .values_mut()
            .filter(|lane| lane.identity.lane > after && lane.has_live_cursor(now))
            .collect();
        lanes_to_skip.sort_unstable_by_key(|lane| lane.identity.lane);
        let mut ranges = Vec::with_capacity(1);
        let mut from = after;
        for lane in lanes_to_skip.into_iter().take(MAX_SKIPPED_LANES) {
            lane.last_search_no = search_no;
            ranges.push((from, lane.identity.lane));
            from = lane.identity.lane;
        }
        ranges.push((from, i64::MAX));
        ranges
    }

    /// Adds the lanes that search number `search_no` returned.
    ///
    /// A range can have more lanes than a search returns. Then the next search starts after the lanes
    /// found so far, so it takes several searches to cover the queue. A search that covered the whole
    /// queue also evicts lanes it did not find; one of several cannot, because it does not cover the
    /// lanes that the others find.
    pub(super) fn add_ready_lanes(
        &mut self,
        ready_lanes: &[ReadyLane],
        search_no: u64,
        now: Instant,
    ) {
        // The last lane of each range that may have more.
        let full_range_ends = ready_lanes
            .iter()
            .filter(|ready| ready.found_by == FoundBy::Jobs(MAX_LANES_PER_RANGE))
            .map(|ready| ready.lane);
        let searched_through = full_range_ends.min();
        let covered_queue = searched_through.is_none() && self.search_after == 0;
        self.search_after = searched_through.unwrap_or(0);
        for ready in ready_lanes.iter().filter(|ready| !ready.is_paused) {
            let lane = self.lanes.entry(ready.lane).or_insert_with(|| KnownLane {
                identity: weighted_lane(ready),
                is_keyed: ready.is_keyed,
                opens_at: None,
                blocked_at: None,
                jobs_per_row: None,
                cursor: None,
                last_start: ScanStart::First,
                fresh_scans: 0,
                last_search_no: search_no,
                may_have_lost_jobs: false,
                known_to_have_only_lost_jobs: false,
            });
            lane.identity = weighted_lane(ready);
            match ready.found_by {
                FoundBy::Jobs(_) => lane.known_to_have_only_lost_jobs = false,
                FoundBy::LostJobs => lane.may_have_lost_jobs = true,
            }
            lane.last_search_no = search_no;
            if let Some(wait_ms) = ready.wait_ms {
                // Never negative: the search returns no time in the past.
                let wait = Duration::from_millis(wait_ms.unsigned_abs());
                lane.opens_at = Some(now + wait.min(MAX_CLOSED_TRUST));
                lane.blocked_at = None;
            }
        }
        if covered_queue {
            self.lanes
                .retain(|_, lane| lane.last_search_no == search_no);
        }
    }

    fn claimable_lanes(
        &self,
        capacity: ClaimCapacity,
        load: &LaneLoad,
        now: Instant,
    ) -> impl Iterator<Item = &KnownLane> {
        self.lanes
            .values()
            .filter(move |lane| lane.opens_at.is_none_or(|opens_at| opens_at <= now))
            .filter(move |lane| capacity.accepts_lost_jobs || !lane.known_to_have_only_lost_jobs)
            .filter(move |lane| load.remaining_for(lane) > 0)
    }

    /// Whether the worker can claim from any lane.
    pub(super) fn has_claimable_lane(
        &self,
        capacity: ClaimCapacity,
        load: &LaneLoad,
        now: Instant,
    ) -> bool {
        self.claimable_lanes(capacity, load, now).next().is_some()
    }

    /// Decides how much to claim from which lane. Empty if no lane can be claimed from.
    pub(super) fn plan_claim(
        &mut self,
        capacity: ClaimCapacity,
        load: &LaneLoad,
        now: Instant,
    ) -> Vec<LaneClaim> {
        let lanes = self.claimable_lanes(capacity, load, now);
        let lanes: Vec<WeightedLane> = lanes.map(|lane| lane.identity).collect();
        if lanes.is_empty() {
            return Vec::new();
        }
        let allocation = self.fair_share.allocate(&lanes, capacity.jobs());
        let mut claims = Vec::with_capacity(allocation.len());
        for (id, jobs) in allocation {
            let Some(lane) = self.lanes.get_mut(&id) else {
                continue;
            };
            // The excess of a keyed lane is redistributed by the next claim.
            let jobs = jobs.min(load.remaining_for(lane));
            lane.last_start = lane.choose_start(now);
            claims.push(LaneClaim {
                lane: id,
                jobs: i32::try_from(jobs).unwrap_or(i32::MAX),
                max_rows: lane.rows_for(jobs),
                start: lane.last_start,
            });
        }
        claims
    }

    /// Records what a claim found in one lane, and the jobs it got from there.
    pub(super) fn record_outcome(
        &mut self,
        outcome: LaneOutcome,
        claimed: ClaimedFromLane,
        claim: ClaimStats,
    ) {
        let now = claim.ended_at;
        if let Some(lane) = self.lanes.get_mut(&outcome.lane)
            && outcome.rows > 0
        {
            lane.record_jobs_per_row(claimed.jobs, outcome.rows);
            self.fair_share
                .record_claimed(lane.identity.tenant, outcome.lane, claimed.jobs);
            lane.advance_cursor(claimed.last_position, claim);
        }
        let (opens_at, blocked_at) = match outcome.availability {
            LaneAvailability::Exhausted => {
                self.record_exhausted(outcome.lane, claim);
                return;
            }
            LaneAvailability::More => (None, None),
            LaneAvailability::ClosedFor(wait) => (Some(now + wait.min(MAX_CLOSED_TRUST)), None),
            LaneAvailability::Blocked => (Some(now + BLOCKED_RETRY), Some(now)),
        };
        if let Some(lane) = self.lanes.get_mut(&outcome.lane) {
            lane.opens_at = opens_at;
            lane.blocked_at = blocked_at;
        }
    }

    /// Removes a lane in which a claim found no further ready jobs, unless the lane may have jobs that
    /// the claim could not see.
    fn record_exhausted(&mut self, id: i64, claim: ClaimStats) {
        match self.lanes.get_mut(&id) {
            // Jobs may precede the position where the claim started.
            Some(lane) if lane.last_start != ScanStart::First => {
                lane.cursor = None;
                lane.opens_at = None;
            }
            // Lost jobs are claimed one after another. The lane is kept, so that it need not be searched
            // for each time.
            Some(lane) if lane.may_have_lost_jobs && !claim.lost_jobs_ruled_out => {
                lane.known_to_have_only_lost_jobs = true;
                // Searches skip lanes with a cursor, but must find jobs that arrive in this lane.
                lane.cursor = None;
                lane.opens_at = None;
            }
            _ => drop(self.lanes.remove(&id)),
        }
    }

    /// Removes all lanes.
    pub(super) fn clear(&mut self) {
        self.lanes.clear();
        self.search_after = 0;
    }

    /// Treats all lanes as open. Called when pauses ended or limits changed, without knowing for which
    /// lanes.
    pub(super) fn reopen_all(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.opens_at = None;
            lane.blocked_at = None;
        }
    }

    /// Allows an early claim from each blocked lane. Called when runs have ended in this worker.
    pub(super) fn unblock_all(&mut self) {
        for lane in self.lanes.values_mut() {
            if let Some(blocked_at) = lane.blocked_at {
                lane.opens_at = Some(blocked_at + MIN_BLOCKED_RETRY);
            }
        }
    }

    /// Earliest opening time later than `after`.
    pub(super) fn next_opening(&self, after: Instant) -> Option<Instant> {
        let opens_at = self.lanes.values().filter_map(|lane| lane.opens_at);
        opens_at.filter(|opens_at| *opens_at > after).min()
    }

    /// Whether the worker knows no lane, open or closed.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// All known lanes, open or closed.
    pub(super) fn all(&self) -> impl Iterator<Item = WeightedLane> {
        self.lanes.values().map(|lane| lane.identity)
    }
}

fn weighted_lane(ready: &ReadyLane) -> WeightedLane {
    WeightedLane {
        lane: ready.lane,
        tenant: ready.tenant,
        lane_weight: ready.lane_weight,
        tenant_weight: ready.tenant_weight,
    }
}

#[cfg(test)]
mod tests;
