//! What a worker knows of the lanes of one queue, and which of them it claims from next.
//!
//! A lane holds jobs of one tenant that are limited and parked together. It is stored as rows of one or
//! more jobs each (parcels), ordered by priority and due time.
//!
//! Learns from two sources: searches find the lanes that have ready jobs, and claims report what each
//! lane gave. Returns how much to claim from which lane, where to start in it, and when a closed lane
//! opens. Never talks to the database.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::fair_share::{FairShare, WaitingLane};
use super::worker_state::LaneLoad;
use crate::claim::{
    ClaimCapacity, LaneAvailability, LaneClaim, LaneOutcome, ReadyLane, ScanPosition, ScanStart,
};

/// Rows read in the first claim from a lane, when it is not known how many jobs a row holds.
const FIRST_CLAIM_ROWS: f64 = 64.0;

/// When to try a closed lane that waits for another run to end, if no run ends in this worker: the run
/// may end in another one.
const CLOSED_RETRY: Duration = Duration::from_secs(1);

/// How long a lane's report that it is closed is believed: its limits may change meanwhile, and no
/// notification is certain to arrive.
const MAX_CLOSED: Duration = Duration::from_secs(5);

/// When to try a closed lane, at the earliest, after runs have ended in this worker.
const MIN_CLOSED: Duration = Duration::from_millis(2);

/// How long claims of a lane continue where the latest one ended, at least, before one starts at the
/// first row again.
const MIN_CONTINUATION: Duration = Duration::from_millis(50);

/// A claim from the first row is slow where dead rows cannot be removed, because of a long transaction.
/// Claims therefore continue for this many times as long as it took, within [`MAX_CONTINUATION`].
const CONTINUATION_FACTOR: u32 = 8;

const MAX_CONTINUATION: Duration = Duration::from_secs(1);

/// Of a lane's claims that do not continue, every n-th starts at the priority whose first job has waited
/// longest, so that no priority waits forever behind a higher one.
const LONGEST_WAITING_EVERY: u32 = 8;

/// Most lanes that a search skips.
const MAX_SKIPPED_LANES: usize = 32;

/// Most lanes that a search returns for each range.
pub(super) const MAX_LANES_PER_SEARCH: i32 = 1000;

/// The lanes of one queue that have work, as far as this worker knows.
#[derive(Debug, Default)]
pub(super) struct KnownLanes {
    lanes: HashMap<i64, KnownLane>,
    pub(super) fair_share: FairShare,
    /// The lane after which the next search starts; 0 for the first.
    pub(super) search_after: i64,
}

#[derive(Debug)]
struct KnownLane {
    waiting: WaitingLane,
    /// Its jobs share a key and run concurrently: such a lane never takes all slots, even if no other lane
    /// has work.
    is_keyed: bool,
    /// When it opens. `None` if it is open.
    opens_at: Option<Instant>,
    /// If it can open earlier because a run ends: when it was last tried.
    blocked_since: Option<Instant>,
    /// Moving mean of jobs per row. `None` before the first claim.
    jobs_per_row: Option<f64>,
    /// Where the latest claim ended, and until when the next ones continue there. A job that arrives in
    /// front of that position, at a higher priority, waits until then.
    continuation: Option<(ScanPosition, Instant)>,
    /// Where the latest claim started.
    last_start: ScanStart,
    /// Number of claims that did not continue.
    fresh_starts: u32,
    /// The latest search that found it.
    found_by_search: u64,
    /// It has lost jobs: an earlier worker stopped renewing its lease while it held them, perhaps because
    /// of them.
    has_lost: bool,
    /// It has no other jobs.
    has_only_lost: bool,
}

/// The jobs that one claim got from one lane.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ClaimedFromLane {
    pub(super) jobs: u32,
    /// The position of the last row, or of one shortly before it.
    pub(super) last: Option<ScanPosition>,
}

/// A claim that has been answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnsweredClaim {
    pub(super) answered_at: Instant,
    pub(super) duration: Duration,
    /// It could have claimed a lost job and found none in any lane.
    pub(super) found_no_lost: bool,
}

impl LaneLoad {
    /// How many more jobs of a lane may be held.
    fn free(&self, lane: &KnownLane) -> u32 {
        if !lane.is_keyed {
            return u32::MAX;
        }
        let held = self.held.get(&lane.waiting.lane).copied();
        self.max_per_keyed_lane
            .saturating_sub(held.unwrap_or_default())
    }
}

impl KnownLane {
    fn continue_after(&mut self, last: Option<ScanPosition>, claim: AnsweredClaim) {
        let (start, until) = match (self.continuation, self.last_start) {
            // Rows in front of that position have been skipped.
            (_, ScanStart::LongestWaiting) => return,
            (Some((_, until)), ScanStart::At(position)) => (Some(position), until),
            _ => {
                let length = (claim.duration * CONTINUATION_FACTOR)
                    .clamp(MIN_CONTINUATION, MAX_CONTINUATION);
                (None, claim.answered_at + length)
            }
        };
        self.continuation = last.max(start).map(|position| (position, until));
    }

    /// Where the next claim starts.
    fn next_start(&mut self, now: Instant) -> ScanStart {
        self.continuation = self.continuation.filter(|(_, until)| *until > now);
        if let Some((position, _)) = self.continuation {
            return ScanStart::At(position);
        }
        self.fresh_starts = self.fresh_starts.wrapping_add(1);
        if self.fresh_starts.is_multiple_of(LONGEST_WAITING_EVERY) {
            ScanStart::LongestWaiting
        } else {
            ScanStart::First
        }
    }

    /// Rows to read for `share` jobs.
    fn rows_for(&self, share: u32) -> i32 {
        let share = f64::from(share);
        let rows = self.jobs_per_row.map_or_else(
            || share.min(FIRST_CLAIM_ROWS),
            |jobs_per_row| (share / jobs_per_row).ceil(),
        );
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounded, and at most the share"
        )]
        let rows = rows as i32;
        rows.max(1)
    }

    fn is_continued_at(&self, now: Instant) -> bool {
        self.continuation.is_some_and(|(_, until)| until > now)
    }
}

impl KnownLanes {
    /// The ranges of lane ids to search, both bounds exclusive. Skips lanes that are being drained: they
    /// are known to have work, and finding it again would mean reading past all rows they gave.
    pub(super) fn search_ranges(&mut self, search: u64, now: Instant) -> Vec<(i64, i64)> {
        let after = self.search_after;
        let mut skipped: Vec<&mut KnownLane> = self
            .lanes
            .values_mut()
            .filter(|lane| lane.waiting.lane > after && lane.is_continued_at(now))
            .collect();
        skipped.sort_unstable_by_key(|lane| lane.waiting.lane);
        let mut ranges = Vec::with_capacity(1);
        let mut from = after;
        for lane in skipped.into_iter().take(MAX_SKIPPED_LANES) {
            lane.found_by_search = search;
            ranges.push((from, lane.waiting.lane));
            from = lane.waiting.lane;
        }
        ranges.push((from, i64::MAX));
        ranges
    }

    /// Adds the lanes found by a search, and forgets those it would have found and did not.
    pub(super) fn add_found(&mut self, found: &[ReadyLane], search: u64, now: Instant) {
        // A range can have more lanes than one search returns; then the next search continues.
        let truncated = found
            .iter()
            .filter(|lane| lane.nth == Some(MAX_LANES_PER_SEARCH));
        let last_complete = truncated.map(|lane| lane.lane).min();
        let is_complete = last_complete.is_none() && self.search_after == 0;
        self.search_after = last_complete.unwrap_or(0);
        for ready in found.iter().filter(|lane| !lane.paused) {
            let lane = self.lanes.entry(ready.lane).or_insert_with(|| KnownLane {
                waiting: waiting_lane(ready),
                is_keyed: ready.named,
                opens_at: None,
                blocked_since: None,
                jobs_per_row: None,
                continuation: None,
                last_start: ScanStart::First,
                fresh_starts: 0,
                found_by_search: search,
                has_lost: false,
                has_only_lost: false,
            });
            lane.waiting = waiting_lane(ready);
            match ready.nth {
                Some(_) => lane.has_only_lost = false,
                None => lane.has_lost = true,
            }
            lane.found_by_search = search;
            if let Some(wait_ms) = ready.wait_ms {
                // Never negative: the search returns no time in the past.
                let wait = Duration::from_millis(wait_ms.unsigned_abs());
                lane.opens_at = Some(now + wait.min(MAX_CLOSED));
                lane.blocked_since = None;
            }
        }
        if is_complete {
            self.lanes.retain(|_, lane| lane.found_by_search == search);
        }
    }

    fn claimable(
        &self,
        capacity: ClaimCapacity,
        load: &LaneLoad,
        now: Instant,
    ) -> impl Iterator<Item = &KnownLane> {
        self.lanes
            .values()
            .filter(move |lane| lane.opens_at.is_none_or(|opens_at| opens_at <= now))
            .filter(move |lane| capacity.lost || !lane.has_only_lost)
            .filter(move |lane| load.free(lane) > 0)
    }

    /// Whether any lane can be claimed from.
    pub(super) fn has_claimable(
        &self,
        capacity: ClaimCapacity,
        load: &LaneLoad,
        now: Instant,
    ) -> bool {
        self.claimable(capacity, load, now).next().is_some()
    }

    /// Decides how much to claim from which lane. Empty if no lane can be claimed from.
    pub(super) fn plan_claim(
        &mut self,
        capacity: ClaimCapacity,
        load: &LaneLoad,
        now: Instant,
    ) -> Vec<LaneClaim> {
        let claimable = self.claimable(capacity, load, now);
        let claimable: Vec<WaitingLane> = claimable.map(|lane| lane.waiting).collect();
        if claimable.is_empty() {
            return Vec::new();
        }
        let shares = self.fair_share.allocate(&claimable, capacity.jobs());
        let mut claims = Vec::with_capacity(shares.len());
        for (id, share) in shares {
            let Some(lane) = self.lanes.get_mut(&id) else {
                continue;
            };
            // What a keyed lane may not hold goes to other lanes in the next turn.
            let share = share.min(load.free(lane));
            lane.last_start = lane.next_start(now);
            claims.push(LaneClaim {
                lane: id,
                share: i32::try_from(share).unwrap_or(i32::MAX),
                depth: lane.rows_for(share),
                start: lane.last_start,
            });
        }
        claims
    }

    /// Records what a claim found in a lane, and the jobs it got.
    pub(super) fn record_outcome(
        &mut self,
        outcome: LaneOutcome,
        claimed: ClaimedFromLane,
        claim: AnsweredClaim,
    ) {
        let now = claim.answered_at;
        if let Some(lane) = self.lanes.get_mut(&outcome.lane)
            && outcome.rows > 0
        {
            let latest = f64::from(claimed.jobs) / f64::from(outcome.rows);
            lane.jobs_per_row = Some(
                lane.jobs_per_row
                    .map_or(latest, |mean| (mean + latest) / 2.0),
            );
            self.fair_share
                .record_served(lane.waiting.tenant, outcome.lane, claimed.jobs);
            lane.continue_after(claimed.last, claim);
        }
        let (opens_at, blocked_since) = match outcome.availability {
            LaneAvailability::Exhausted => {
                self.record_exhausted(outcome.lane, claim);
                return;
            }
            LaneAvailability::More => (None, None),
            LaneAvailability::ClosedFor(wait) => (Some(now + wait.min(MAX_CLOSED)), None),
            LaneAvailability::Closed => (Some(now + CLOSED_RETRY), Some(now)),
        };
        if let Some(lane) = self.lanes.get_mut(&outcome.lane) {
            lane.opens_at = opens_at;
            lane.blocked_since = blocked_since;
        }
    }

    /// Forgets a lane without further ready jobs, unless it may have some that the claim could not see.
    fn record_exhausted(&mut self, id: i64, claim: AnsweredClaim) {
        match self.lanes.get_mut(&id) {
            // There may be jobs in front of the position where the claim started.
            Some(lane) if lane.last_start != ScanStart::First => {
                lane.continuation = None;
                lane.opens_at = None;
            }
            // Its lost jobs are claimed one after another; no search has to find the lane each time.
            Some(lane) if lane.has_lost && !claim.found_no_lost => {
                lane.has_only_lost = true;
                // Searches must not skip it, to find other jobs that arrive.
                lane.continuation = None;
                lane.opens_at = None;
            }
            _ => drop(self.lanes.remove(&id)),
        }
    }

    /// Forgets all lanes.
    pub(super) fn clear(&mut self) {
        self.lanes.clear();
        self.search_after = 0;
    }

    /// Treats all lanes as open, because some have been opened.
    pub(super) fn reopen_all(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.opens_at = None;
            lane.blocked_since = None;
        }
    }

    /// Lets lanes that wait for a run to end be tried soon, because runs have ended.
    pub(super) fn unblock(&mut self) {
        for lane in self.lanes.values_mut() {
            if let Some(blocked_since) = lane.blocked_since {
                lane.opens_at = Some(blocked_since + MIN_CLOSED);
            }
        }
    }

    /// When the first lane opens of those that were closed at `since`.
    pub(super) fn next_opening(&self, since: Instant) -> Option<Instant> {
        let opens_at = self.lanes.values().filter_map(|lane| lane.opens_at);
        opens_at.filter(|opens_at| *opens_at > since).min()
    }

    /// All known lanes.
    pub(super) fn waiting(&self) -> impl Iterator<Item = WaitingLane> {
        self.lanes.values().map(|lane| lane.waiting)
    }
}

fn waiting_lane(lane: &ReadyLane) -> WaitingLane {
    WaitingLane {
        lane: lane.lane,
        tenant: lane.tenant,
        lane_weight: lane.lane_weight,
        tenant_weight: lane.tenant_weight,
    }
}

#[cfg(test)]
mod tests;
