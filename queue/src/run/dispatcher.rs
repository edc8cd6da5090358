//! Room: the dispatcher: finds work for free places.
//! Takes: wake-ups, due times, free places. Gives: claimed jobs to their queues' backends.
//! Never: claims more than there are places, and never polls while work is known to be elsewhere.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apalis_core::task::Task;
use harkara_shared::telemetry::metric;
use rand::RngExt;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Run;
use super::desk::Desk;
use crate::claim::Want;
use crate::engine::Error;

/// The backstop where no notification comes, and the pace of promotion.
const POLL: Duration = Duration::from_secs(1);

/// How long a stop waits for a statement that does not answer.
const HANG: Duration = Duration::from_secs(2);

/// Serves until `stop`.
pub(super) async fn run(
    desk: Arc<Desk>,
    senders: Vec<mpsc::UnboundedSender<Task<Run>>>,
    stop: CancellationToken,
) {
    let mut round = Round {
        desk,
        senders,
        numbers: Vec::new(),
        after: HashMap::new(),
    };
    let mut next_pulse = Instant::now();
    let mut refusals: u32 = 0;
    while !stop.is_cancelled() {
        // A turn that is cut off may have claimed jobs that nobody then holds: they would be lost
        // runs when the lease ends. So a stop lets it finish, unless the database hangs.
        let found = tokio::select! {
            found = round.turn(&mut next_pulse) => found,
            () = stopped_for(&stop, HANG) => break,
        };
        match found {
            Ok(true) => refusals = 0,
            Ok(false) => {
                refusals = 0;
                tokio::select! {
                    () = round.desk.work.notified() => {}
                    () = tokio::time::sleep_until(next_pulse) => {}
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
}

async fn stopped_for(stop: &CancellationToken, length: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(length).await;
}

struct Round {
    desk: Arc<Desk>,
    senders: Vec<mpsc::UnboundedSender<Task<Run>>>,
    /// Numbers of the served queues, in their order; empty until they are learnt.
    numbers: Vec<i32>,
    /// Where the round over each queue's lanes goes on.
    after: HashMap<i32, i64>,
}

impl Round {
    /// One look for work; true when there may be more at once.
    async fn turn(&mut self, next_pulse: &mut Instant) -> Result<bool, Error> {
        let Some(lease) = self.desk.lease() else {
            let changed = self.desk.lease_changed.notified();
            // Checked again: the lease may have come between the two lines.
            if self.desk.lease().is_none() {
                tokio::time::timeout(POLL, changed).await.ok();
            }
            return Ok(true);
        };
        if self.numbers.is_empty() {
            for (queue, _) in &self.desk.queues {
                self.numbers
                    .push(self.desk.engine.names().queue(queue).await?);
            }
        }
        if Instant::now() >= *next_pulse {
            let pulse = self.desk.engine.pulse(lease).await?;
            self.desk.cancel(&pulse.cancelling);
            let poll = POLL.mul_f64(rand::rng().random_range(0.75..1.0));
            let due = pulse
                .next_due
                .unwrap_or(poll)
                .clamp(Duration::from_millis(1), poll);
            *next_pulse = Instant::now() + due;
        }
        self.claim(lease).await
    }

    async fn claim(&mut self, lease: i64) -> Result<bool, Error> {
        let wants: Vec<Want> = self
            .numbers
            .iter()
            .zip(self.desk.free())
            .filter(|(_, free)| *free > 0)
            .map(|(queue, free)| Want {
                queue: *queue,
                free,
                after_lane: self.after.get(queue).copied().unwrap_or_default(),
            })
            .collect();
        if wants.is_empty() {
            return Ok(false);
        }
        let claim = self.desk.engine.claim(lease, &wants).await?;
        let mut again = !claim.jobs.is_empty();
        for want in &wants {
            let seen = claim.visited.iter().find(|visit| visit.queue == want.queue);
            // The round is over when it met fewer lanes than it had places for.
            let (ended, last) = match seen {
                Some(visit) => (visit.lanes < i64::from(want.free), visit.last),
                None => (true, 0),
            };
            self.after.insert(want.queue, if ended { 0 } else { last });
            // Lanes before the cursor have not been looked at in this turn.
            again |= ended && want.after_lane > 0;
        }
        for job in claim.jobs {
            let Some(index) = self.numbers.iter().position(|number| *number == job.queue) else {
                continue;
            };
            let waited = (job.started_at - job.run_at).to_std().unwrap_or_default();
            if let (Some(sender), Some((queue, _))) =
                (self.senders.get(index), self.desk.queues.get(index))
            {
                metrics::histogram!(metric::WAIT_SECONDS, "queue" => queue.clone())
                    .record(waited.as_secs_f64());
                let task = self.desk.hold(index, job);
                if let Err(mpsc::error::SendError(task)) = sender.send(task) {
                    // The queue's line has ended: the job goes back.
                    let (run, _) = task.take();
                    self.desk
                        .end(run.job, Some(crate::verdict::Ending::PutBack));
                }
            }
        }
        Ok(again)
    }
}
