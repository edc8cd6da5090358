//! Room: what a worker knows of the lanes of one queue.
//! Takes: looks, and the reports of claims. Gives: whom to ask for how much next, and when a closed
//! lane opens. Never: talks to the database.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::fair::{Fair, Waiting};
use crate::claim::{Begin, LaneState, Mark, Portion, Report, Room, Sight};

/// Rows of a lane that is not known yet that are looked at in its first claim.
const FIRST_DEPTH: f64 = 64.0;

/// How long a lane that waits for another run to end is left alone when nothing ends here: it may
/// end in another worker.
const BLOCKED: Duration = Duration::from_secs(1);

/// How long a lane is believed to be closed: its limits may be changed meanwhile, and no notification
/// need come.
const BELIEVED: Duration = Duration::from_secs(5);

/// How long it is left alone at least.
const PAUSE: Duration = Duration::from_millis(2);

/// How long the rows of a lane are looked at from where the latest claim ended, at least, before they are
/// looked at from the first again.
const ONWARD: Duration = Duration::from_millis(50);

/// And for how many times as long as it took to look at them from the first, within [`MOST_ONWARD`]:
/// where dead rows cannot be removed, because somebody holds a transaction open, that takes long.
const ONWARD_TIMES: u32 = 8;

const MOST_ONWARD: Duration = Duration::from_secs(1);

/// Of a lane's claims that begin at its first row, every so many begins at the priority whose first job has
/// waited longest instead: so no priority waits for ever, however many jobs come before it.
const AGEING: u32 = 8;

/// Most lanes left out of a look.
const MOST_LEFT_OUT: usize = 32;

/// Lanes answered by one look, of each stretch.
pub(super) const LOOK: i32 = 1000;

/// What a worker holds of one queue's lanes: running, or waiting in hand.
#[derive(Debug, Default)]
pub(super) struct InHand {
    /// Most jobs of one lane that names a key.
    pub(super) most: u32,
    /// Jobs by lane, at least of those.
    pub(super) jobs: HashMap<i64, u32>,
}

impl InHand {
    /// How many more jobs of this lane may be held.
    fn room(&self, known: &Known) -> u32 {
        if !known.named {
            return u32::MAX;
        }
        let held = self.jobs.get(&known.waiting.lane).copied();
        self.most.saturating_sub(held.unwrap_or_default())
    }
}

/// The lanes of a queue that have work, as far as this worker knows.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    known: HashMap<i64, Known>,
    pub(super) fair: Fair,
    /// The lane after which the next look begins.
    pub(super) after: i64,
}

#[derive(Debug)]
struct Known {
    waiting: Waiting,
    /// Its jobs name a key: it never has all places, whoever else has work.
    named: bool,
    opens: Option<Instant>,
    /// It may open earlier than that, when something else ends; asked at this moment.
    blocked: Option<Instant>,
    /// Jobs of a row, as the latest claims found them; unknown before the first.
    per_row: Option<f64>,
    /// Where the latest claim ended, and until when the next ones may begin there. What comes to stand
    /// before it, a job of a higher priority, waits until then.
    onward: Option<(Mark, Instant)>,
    /// Where the latest claim began.
    from: Begin,
    /// Claims that began at the first row, or would have.
    firsts: u32,
    /// The look that last found it.
    look: u64,
    /// It has jobs under which a worker died.
    has_lost: bool,
    /// It has no others.
    only_lost: bool,
}

/// What a lane gave in one claim.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Given {
    pub(super) jobs: u32,
    /// The last of its rows, or one not far before it.
    pub(super) last: Option<Mark>,
}

/// A claim whose answer has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    pub(super) at: Instant,
    pub(super) took: Duration,
    /// It asked for a job under which a worker died and was given none in any lane.
    pub(super) lost_sought: bool,
}

impl Known {
    fn go_on_from(&mut self, last: Option<Mark>, claim: Claim) {
        let (begun, until) = match (self.onward, self.from) {
            // What it skipped has not been looked at.
            (_, Begin::LongestWaiting) => return,
            (Some((_, until)), Begin::At(mark)) => (Some(mark), until),
            _ => {
                let until = claim.at + (claim.took * ONWARD_TIMES).clamp(ONWARD, MOST_ONWARD);
                (None, until)
            }
        };
        self.onward = last.max(begun).map(|mark| (mark, until));
    }

    /// Where the next claim begins.
    fn begin(&mut self, now: Instant) -> Begin {
        self.onward = self.onward.filter(|(_, until)| *until > now);
        if let Some((mark, _)) = self.onward {
            return Begin::At(mark);
        }
        self.firsts = self.firsts.wrapping_add(1);
        if self.firsts.is_multiple_of(AGEING) {
            Begin::LongestWaiting
        } else {
            Begin::First
        }
    }
}

impl Lanes {
    /// Where look number `look` is to look: between which lanes, neither of them included. Left out are
    /// lanes that are being drained: it is known that they have work, and to find that again would be
    /// to pass by all that they gave.
    pub(super) fn stretches(&mut self, look: u64, now: Instant) -> Vec<(i64, i64)> {
        let after = self.after;
        let mut left_out: Vec<&mut Known> = self
            .known
            .values_mut()
            .filter(|known| known.waiting.lane > after)
            .filter(|known| known.onward.is_some_and(|(_, until)| until > now))
            .collect();
        left_out.sort_unstable_by_key(|known| known.waiting.lane);
        let mut stretches = Vec::with_capacity(1);
        let mut from = after;
        for known in left_out.into_iter().take(MOST_LEFT_OUT) {
            known.look = look;
            stretches.push((from, known.waiting.lane));
            from = known.waiting.lane;
        }
        stretches.push((from, i64::MAX));
        stretches
    }

    /// Takes in what look number `look` found; lanes it would have found and did not are forgotten.
    pub(super) fn see(&mut self, sights: &[Sight], look: u64, now: Instant) {
        // In a stretch with more lanes than one look answers, the next look goes on.
        let cut = sights.iter().filter(|sight| sight.nth == Some(LOOK));
        let cut = cut.map(|sight| sight.lane).min();
        let whole = cut.is_none();
        let from_start = self.after == 0;
        self.after = cut.unwrap_or(0);
        for sight in sights.iter().filter(|sight| !sight.paused) {
            let known = self.known.entry(sight.lane).or_insert_with(|| Known {
                waiting: waiting(sight),
                named: sight.named,
                opens: None,
                blocked: None,
                per_row: None,
                onward: None,
                from: Begin::First,
                firsts: 0,
                look,
                has_lost: false,
                only_lost: false,
            });
            known.waiting = waiting(sight);
            match sight.nth {
                Some(_) => known.only_lost = false,
                None => known.has_lost = true,
            }
            known.look = look;
            let wait = sight
                .wait_ms
                .map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or_default()));
            if let Some(wait) = wait {
                known.opens = Some(now + wait.min(BELIEVED));
                known.blocked = None;
            }
        }
        if whole && from_start {
            self.known.retain(|_, known| known.look == look);
        }
    }

    fn open_to(&self, room: Room, in_hand: &InHand, now: Instant) -> impl Iterator<Item = &Known> {
        self.known
            .values()
            .filter(move |known| known.opens.is_none_or(|opens| opens <= now))
            .filter(move |known| room.lost || !known.only_lost)
            .filter(move |known| in_hand.room(known) > 0)
    }

    /// Whether there is anybody to ask.
    pub(super) fn has_open(&self, room: Room, in_hand: &InHand, now: Instant) -> bool {
        self.open_to(room, in_hand, now).next().is_some()
    }

    /// Whom to ask for how much.
    pub(super) fn portions(&mut self, room: Room, in_hand: &InHand, now: Instant) -> Vec<Portion> {
        let open = self.open_to(room, in_hand, now);
        let open: Vec<Waiting> = open.map(|known| known.waiting).collect();
        if open.is_empty() {
            return Vec::new();
        }
        let shares = self.fair.shares(&open, room.places + room.ahead);
        let depth = |known: &Known, share: u32| {
            let share = f64::from(share);
            let rows = known
                .per_row
                .map_or_else(|| share.min(FIRST_DEPTH), |jobs| (share / jobs).ceil());
            #[expect(
                clippy::cast_possible_truncation,
                reason = "rounded, and at most the share"
            )]
            let rows = rows as i32;
            rows.max(1)
        };
        let mut portions = Vec::with_capacity(shares.len());
        for (lane, share) in shares {
            let Some(known) = self.known.get_mut(&lane) else {
                continue;
            };
            // What it may not hold is left to others in the next turn.
            let share = share.min(in_hand.room(known));
            let depth = depth(known, share);
            known.from = known.begin(now);
            portions.push(Portion {
                lane,
                share: i32::try_from(share).unwrap_or(i32::MAX),
                depth,
                from: known.from,
            });
        }
        portions
    }

    /// What a claim learnt of a lane, and what it had of it.
    pub(super) fn report(&mut self, report: Report, given: Given, claim: Claim) {
        let Claim { at: now, .. } = claim;
        if let Some(known) = self.known.get_mut(&report.lane)
            && report.rows > 0
        {
            let per_row = f64::from(given.jobs) / f64::from(report.rows);
            known.per_row = Some(known.per_row.map_or(per_row, |mean| (mean + per_row) / 2.0));
            self.fair
                .served(known.waiting.tenant, report.lane, given.jobs);
            known.go_on_from(given.last, claim);
        }
        let (opens, blocked) = match report.state {
            LaneState::Spent => {
                match self.known.get_mut(&report.lane) {
                    // There may be something before the place where the claim began.
                    Some(known) if known.from != Begin::First => {
                        known.onward = None;
                        known.opens = None;
                    }
                    // They are taken one after another: no need to look for the lane each time.
                    Some(known) if known.has_lost && !claim.lost_sought => {
                        known.only_lost = true;
                        // Looks are to find what else comes.
                        known.onward = None;
                        known.opens = None;
                    }
                    _ => drop(self.known.remove(&report.lane)),
                }
                return;
            }
            LaneState::More => (None, None),
            LaneState::ClosedFor(wait) => (Some(now + wait.min(BELIEVED)), None),
            LaneState::Closed => (Some(now + BLOCKED), Some(now)),
        };
        if let Some(known) = self.known.get_mut(&report.lane) {
            known.opens = opens;
            known.blocked = blocked;
        }
    }

    /// Nothing is known any more.
    pub(super) fn forget(&mut self) {
        self.known.clear();
        self.after = 0;
    }

    /// Somebody opened lanes: what was told of them before no longer holds.
    pub(super) fn open(&mut self) {
        for known in self.known.values_mut() {
            known.opens = None;
            known.blocked = None;
        }
    }

    /// Runs have ended: lanes that waited for that may be open.
    pub(super) fn unblock(&mut self) {
        for known in self.known.values_mut() {
            if let Some(asked) = known.blocked {
                known.opens = Some(asked + PAUSE);
            }
        }
    }

    /// When the first of the lanes opens that were closed at this moment.
    pub(super) fn opens(&self, since: Instant) -> Option<Instant> {
        let opens = self.known.values().filter_map(|known| known.opens);
        opens.filter(|opens| *opens > since).min()
    }

    /// The lanes known, with their tenants.
    pub(super) fn waiting(&self) -> impl Iterator<Item = Waiting> {
        self.known.values().map(|known| known.waiting)
    }
}

fn waiting(sight: &Sight) -> Waiting {
    Waiting {
        lane: sight.lane,
        tenant: sight.tenant,
        lane_weight: sight.lane_weight,
        tenant_weight: sight.tenant_weight,
    }
}

#[cfg(test)]
mod tests;
