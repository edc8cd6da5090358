//! Room: the dispatcher: finds work for free places.
//! Takes: wake-ups and free places. Gives: claimed jobs to their queues' backends.
//! Never: claims more than there are places, and never forgets a claim: one whose answer was lost
//! is asked for again.

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
use crate::claim::{Claimed, Want};
use crate::engine::Error;

/// How long a claim that is under way when the worker is told to stop may still take.
const LAST_TURN: Duration = Duration::from_secs(1);

/// How often the database is asked, without a reason, for claims that this worker knows nothing of.
const RECALL: Duration = Duration::from_secs(10);

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
        in_doubt: false,
        next_recall: Instant::now() + RECALL,
    };
    let mut refusals: u32 = 0;
    while !stop.is_cancelled() {
        let Some(found) = unless_stuck(round.turn(), &stop).await else {
            break;
        };
        match found {
            Ok(true) => refusals = 0,
            Ok(false) => {
                refusals = 0;
                tokio::select! {
                    () = round.desk.work.notified() => {}
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
    if let Some(lease) = round.desk.lease().filter(|_| round.in_doubt) {
        let recalled = tokio::time::timeout(LAST_TURN / 2, round.recall(lease)).await;
        if !matches!(recalled, Ok(Ok(()))) {
            tracing::warn!("the last claim is left to be rescued when the lease ends");
        }
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
    /// Where the round over each queue's lanes goes on.
    after: HashMap<i32, i64>,
    /// A claim was begun whose answer has not come.
    in_doubt: bool,
    next_recall: Instant,
}

impl Round {
    /// One look for work; true when there may be more at once.
    async fn turn(&mut self) -> Result<bool, Error> {
        let Some(lease) = self.desk.lease() else {
            return Ok(false);
        };
        if self.numbers.is_empty() {
            self.numbers = self.learn().await?;
        }
        if self.in_doubt || Instant::now() >= self.next_recall {
            self.recall(lease).await?;
        }
        self.claim(lease).await
    }

    async fn learn(&self) -> Result<Vec<i32>, Error> {
        let mut numbers = Vec::with_capacity(self.desk.queues.len());
        for (queue, _) in &self.desk.queues {
            numbers.push(self.desk.engine.names().queue(queue).await?);
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
        self.in_doubt = true;
        let claim = self.desk.engine.claim(lease, &wants).await?;
        self.in_doubt = false;
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
            self.hand_over(job);
        }
        Ok(again)
    }

    fn hand_over(&self, job: Claimed) {
        let index = self.numbers.iter().position(|number| *number == job.queue);
        let place = index.and_then(|index| {
            Some((
                index,
                self.senders.get(index)?,
                self.desk.queues.get(index)?,
            ))
        });
        // A queue nobody asked for.
        let Some((index, sender, (queue, _))) = place else {
            return self.desk.put_back(job);
        };
        let waited = (job.started_at - job.run_at).to_std().unwrap_or_default();
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
