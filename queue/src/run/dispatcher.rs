//! Room: the dispatcher: finds work for free places.
//! Takes: wake-ups and room. Gives: claimed jobs to their queues' backends.
//! Never: claims more than there is room for, and never forgets a claim: one whose answer was lost
//! is asked for again.
//!
//! A *look* asks which lanes have work; a *take* claims from lanes that are known to have some. Looks
//! cost a probe a lane, so they are made on news, and not more often than they are cheap.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use apalis_core::task::Task;
use harkara_shared::telemetry::metric;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Run;
use super::desk::Desk;
use super::lanes::{self, Given, LOOK, Lanes};
use crate::claim::{Claimed, Room, Sight, Stretch};
use crate::error::Error;
use crate::shares::Share;
use crate::verdict::Ending;

/// How long a claim that is under way when the worker is told to stop may still take.
const LAST_TURN: Duration = Duration::from_secs(1);

/// How often the database is asked, without a reason, for claims that this worker knows nothing of.
const RECALL: Duration = Duration::from_secs(10);

/// How often what tenants were served is written down.
const SAVE: Duration = Duration::from_secs(1);

/// No tenant's number: in its place stands what the least served tenant of a queue stood at.
const FLOOR: i32 = 0;

/// How much longer than a look takes the next one waits while there is work to do without it.
const LOOK_GAP: u32 = 4;

/// What a turn leaves to be done.
enum Next {
    /// There may be more to do at once.
    Again,
    /// Nothing before something happens, or before this moment.
    Wait(Option<Instant>),
}

/// Serves until `stop`.
pub(super) async fn run(
    desk: Arc<Desk>,
    senders: Vec<mpsc::UnboundedSender<Task<Run>>>,
    stop: CancellationToken,
) {
    let mut round = Round::new(desk, senders);
    let mut refusals: u32 = 0;
    while !stop.is_cancelled() {
        let Some(next) = unless_stuck(round.turn(), &stop).await else {
            break;
        };
        match next {
            Ok(Next::Again) => refusals = 0,
            Ok(Next::Wait(until)) => {
                refusals = 0;
                let moment = async {
                    match until {
                        Some(until) => tokio::time::sleep_until(until).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = round.desk.work.notified() => {}
                    () = moment => {}
                    () = stop.cancelled() => break,
                }
            }
            Err(error) => {
                // A failed statement never ends a worker: it waits, longer each time, and goes on.
                refusals = refusals.saturating_add(1);
                metrics::counter!(metric::ENGINE_RETRIES, "statement" => "claim").increment(1);
                tracing::warn!(%error, refusals, "cannot claim: trying again");
                let wait = Duration::from_millis(100) * refusals.min(20);
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = stop.cancelled() => break,
                }
            }
        }
    }
    let parting = async {
        if let Some(lease) = round.desk.lease().filter(|_| round.in_doubt) {
            round.recall(lease).await?;
        }
        round.save().await
    };
    if !matches!(
        tokio::time::timeout(LAST_TURN / 2, parting).await,
        Ok(Ok(()))
    ) {
        tracing::warn!("the last claim is left to be rescued when the lease ends");
    }
}

/// What `turn` answers, unless it takes too long after the worker was told to stop: a claim that is
/// dropped half-way may be made all the same.
async fn unless_stuck<F: Future>(turn: F, stop: &CancellationToken) -> Option<F::Output> {
    let too_long = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_TURN).await;
    };
    tokio::select! {
        found = turn => Some(found),
        () = too_long => None,
    }
}

struct Round {
    desk: Arc<Desk>,
    senders: Vec<mpsc::UnboundedSender<Task<Run>>>,
    /// Numbers of the served queues, in their order; empty until they are learnt.
    numbers: Vec<i32>,
    /// What is known of each queue's lanes, in the same order.
    lanes: Vec<Lanes>,
    looks: u64,
    /// Turns taken.
    turns: usize,
    /// When the latest look ended, and how long it took.
    looked: Instant,
    look_took: Duration,
    /// There was news since.
    look_wanted: bool,
    /// A claim was begun whose answer has not come.
    in_doubt: bool,
    next_recall: Instant,
    next_save: Instant,
}

impl Round {
    fn new(desk: Arc<Desk>, senders: Vec<mpsc::UnboundedSender<Task<Run>>>) -> Self {
        Self {
            lanes: desk.queues.iter().map(|_| Lanes::default()).collect(),
            desk,
            senders,
            numbers: Vec::new(),
            looks: 0,
            turns: 0,
            looked: Instant::now(),
            look_took: Duration::ZERO,
            look_wanted: true,
            in_doubt: false,
            next_recall: Instant::now() + RECALL,
            next_save: Instant::now() + SAVE,
        }
    }

    /// One look for work, and one claim in each queue that has room and work.
    async fn turn(&mut self) -> Result<Next, Error> {
        let Some(lease) = self.desk.lease() else {
            return Ok(Next::Wait(None));
        };
        if self.numbers.is_empty() {
            self.numbers = self.learn().await?;
        }
        if self.in_doubt || Instant::now() >= self.next_recall {
            self.recall(lease).await?;
        }
        if Instant::now() >= self.next_save {
            self.next_save = Instant::now() + SAVE;
            self.save().await?;
        }
        self.look_wanted |= self.desk.take_news();
        if self.desk.take_opened() {
            self.lanes.iter_mut().for_each(Lanes::open);
        }
        if self.desk.take_freed() {
            self.lanes.iter_mut().for_each(Lanes::unblock);
        }
        let rooms = self.desk.room();
        if rooms.iter().all(|room| room.places + room.ahead == 0) {
            // The end of a run says when there is room again.
            return Ok(Next::Wait(None));
        }
        let busy = self
            .lanes
            .iter()
            .any(|lanes| lanes.waiting().next().is_some());
        let gap = self.look_took * if busy { LOOK_GAP } else { 1 };
        if self.look_wanted && self.looked + gap <= Instant::now() {
            self.look().await?;
        }
        let mut found = false;
        let since = Instant::now();
        // Memory is shared: no queue is always the first to be given of it.
        self.turns = self.turns.wrapping_add(1);
        let mut order: Vec<(usize, Room)> = rooms.into_iter().enumerate().collect();
        let first = self.turns % order.len().max(1);
        order.rotate_left(first);
        for (index, mut room) in order {
            if room.places + room.ahead > 0 {
                // The queue before it may have given one, and much to hold.
                room.lost &= self.desk.may_take_lost();
                let Some(bytes) = self.desk.bytes_left() else {
                    continue;
                };
                room.bytes = bytes;
                found |= self.take(index, lease, room).await?;
            }
        }
        if found {
            // What came meanwhile should not have to wait for a notification.
            self.look_wanted = true;
            return Ok(Next::Again);
        }
        let looking = self.look_wanted.then(|| self.looked + gap);
        // A lane that was open before waits for room, and the end of a run tells of that. One that has
        // opened since may not have been asked.
        let opening = self.lanes.iter().filter_map(|lanes| lanes.opens(since));
        Ok(Next::Wait(opening.chain(looking).min()))
    }

    async fn learn(&self) -> Result<Vec<i32>, Error> {
        let mut numbers = Vec::with_capacity(self.desk.queues.len());
        for queue in &self.desk.queues {
            numbers.push(
                self.desk
                    .engine
                    .interner()
                    .queue_number(&queue.name)
                    .await?,
            );
        }
        Ok(numbers)
    }

    /// Puts back what the database says this worker runs and the worker knows nothing of. Nothing
    /// is claimed meanwhile: claims and recalls take turns.
    async fn recall(&mut self, lease: i64) -> Result<(), Error> {
        let forgotten = self.desk.engine.recall(lease, &self.desk.tokens()).await?;
        self.in_doubt = false;
        self.next_recall = Instant::now() + RECALL;
        if !forgotten.is_empty() {
            tracing::warn!(
                jobs = forgotten.len(),
                "putting back jobs of a claim whose answer was lost"
            );
        }
        for job in forgotten {
            self.desk.put_back(job);
        }
        Ok(())
    }

    /// Finds out which lanes have work.
    async fn look(&mut self) -> Result<(), Error> {
        let begun = Instant::now();
        self.looks += 1;
        let mut asked = Vec::with_capacity(self.numbers.len());
        for (number, lanes) in self.numbers.iter().zip(&mut self.lanes) {
            let stretches = lanes.stretches(self.looks, begun);
            asked.extend(stretches.into_iter().map(|(after, before)| Stretch {
                queue: *number,
                after,
                before,
            }));
        }
        let sights = self.desk.engine.look(&asked, LOOK).await?;
        self.look_wanted = false;
        let now = Instant::now();
        let mut of_queue: HashMap<i32, Vec<Sight>> = HashMap::new();
        for sight in sights {
            of_queue.entry(sight.queue).or_default().push(sight);
        }
        for (number, lanes) in self.numbers.iter().zip(&mut self.lanes) {
            let sights = of_queue.remove(number).unwrap_or_default();
            lanes.see(&sights, self.looks, now);
            // A round over very many lanes goes on in the next look.
            self.look_wanted |= lanes.after != 0;
        }
        if self.looks == 1 {
            self.remember().await?;
        }
        self.looked = Instant::now();
        self.look_took = self.looked - begun;
        Ok(())
    }

    /// Learns what the tenants were served before this worker began.
    async fn remember(&mut self) -> Result<(), Error> {
        let mut asked = Vec::new();
        for (number, lanes) in self.numbers.iter().zip(&self.lanes) {
            asked.push((*number, FLOOR));
            asked.extend(lanes.waiting().map(|waiting| (*number, waiting.tenant)));
        }
        let shares = self.desk.engine.load_shares(&asked).await?;
        let served: HashMap<(i32, i32), f64> = shares
            .into_iter()
            .map(|share| ((share.queue, share.tenant), share.served))
            .collect();
        for (number, lanes) in self.numbers.iter().zip(&mut self.lanes) {
            let of = |tenant| served.get(&(*number, tenant)).copied().unwrap_or_default();
            lanes.fair.raise_floor(of(FLOOR));
            let waiting: Vec<_> = lanes.waiting().collect();
            for one in waiting {
                lanes.fair.remember(one, of(one.tenant));
            }
        }
        Ok(())
    }

    /// Writes down what tenants were served, and learns what other workers gave them.
    async fn save(&mut self) -> Result<(), Error> {
        let mut added = Vec::new();
        for (number, lanes) in self.numbers.iter().zip(&mut self.lanes) {
            let savings = lanes.fair.unsaved();
            let share = |tenant, served| Share {
                queue: *number,
                tenant,
                served,
            };
            if !savings.is_empty() {
                added.push((share(FLOOR, lanes.fair.floor()), 0.0));
            }
            added.extend(
                savings
                    .into_iter()
                    .map(|saving| (share(saving.tenant, saving.base), saving.added)),
            );
        }
        if added.is_empty() {
            return Ok(());
        }
        let shares = self.desk.engine.save_shares(&added).await?;
        let of: HashMap<(i32, i32), f64> = added
            .iter()
            .map(|(share, added)| ((share.queue, share.tenant), *added))
            .collect();
        for share in shares {
            let index = self
                .numbers
                .iter()
                .position(|number| *number == share.queue);
            let added = of.get(&(share.queue, share.tenant));
            if let (Some(lanes), Some(added)) =
                (index.and_then(|index| self.lanes.get_mut(index)), added)
            {
                match share.tenant {
                    FLOOR => lanes.fair.raise_floor(share.served),
                    tenant => lanes.fair.saved(tenant, *added, share.served),
                }
            }
        }
        Ok(())
    }

    /// Claims from the lanes of one queue that are known to have work; true when it found any or
    /// there is more to ask.
    async fn take(&mut self, index: usize, lease: i64, room: Room) -> Result<bool, Error> {
        let (Some(lanes), Some(number)) = (self.lanes.get_mut(index), self.numbers.get(index))
        else {
            return Ok(false);
        };
        let in_hand = self.desk.of_lanes(index);
        let portions = lanes.portions(room, &in_hand, Instant::now());
        if portions.is_empty() {
            return Ok(false);
        }
        self.in_doubt = true;
        let begun = Instant::now();
        let take = self
            .desk
            .engine
            .take(*number, lease, &portions, room)
            .await?;
        self.in_doubt = false;
        let at = Instant::now();
        let claim = lanes::Claim {
            at,
            took: at - begun,
            lost_sought: room.lost && !take.jobs.iter().any(|job| job.parcel.lost),
        };
        let mut given: HashMap<i64, Given> = HashMap::new();
        for job in &take.jobs {
            let given = given.entry(job.parcel.lane).or_default();
            given.jobs += 1;
            if !job.parcel.lost {
                given.last = given.last.max(Some(job.mark()));
            }
        }
        if take.reports.is_empty() {
            // The queue is paused or the lease is gone: the next look finds what there is then.
            lanes.forget();
        }
        for report in take.reports {
            let given = given.remove(&report.lane).unwrap_or_default();
            lanes.report(report, given, claim);
        }
        // When those that were asked had nothing, there may be others that had no share, or something
        // before the place where a claim began.
        let found = !take.jobs.is_empty() || lanes.has_open(room, &in_hand, at);
        let order: Vec<i64> = portions.iter().map(|portion| portion.lane).collect();
        self.hand_over(index, in_turns(take.jobs, &order));
        Ok(found)
    }

    fn hand_over(&self, index: usize, jobs: Vec<Claimed>) {
        let (Some(sender), Some(queue)) = (self.senders.get(index), self.desk.queues.get(index))
        else {
            return;
        };
        for job in &jobs {
            let waited = (job.started_at - job.run_at).to_std().unwrap_or_default();
            queue.waits.record(waited.as_secs_f64());
        }
        for task in self.desk.hold(index, jobs) {
            if let Err(mpsc::error::SendError(task)) = sender.send(task) {
                // The queue's line has ended: the job goes back.
                let (run, _) = task.take();
                self.desk.end(run.job, Some(Ending::PutBack), None);
            }
        }
    }
}

/// The jobs of several lanes in turns, one of each lane at a time, lanes in this order: whole parcels
/// were taken, and whoever has one job should not wait for another's five hundred.
fn in_turns(jobs: Vec<Claimed>, order: &[i64]) -> Vec<Claimed> {
    let place: HashMap<i64, usize> = order.iter().copied().zip(0..).collect();
    let mut seen: HashMap<i64, usize> = HashMap::new();
    let mut keyed: Vec<((usize, usize), Claimed)> = jobs
        .into_iter()
        .map(|job| {
            let turn = seen.entry(job.parcel.lane).or_default();
            *turn += 1;
            let lane = place.get(&job.parcel.lane).copied().unwrap_or(usize::MAX);
            ((*turn, lane), job)
        })
        .collect();
    if seen.len() > 1 {
        keyed.sort_by_key(|(key, _)| *key);
    }
    keyed.into_iter().map(|(_, job)| job).collect()
}

#[cfg(test)]
mod tests;
