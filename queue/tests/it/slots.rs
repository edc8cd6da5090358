//! How many worker slots the jobs of one lane can occupy.

use std::sync::Arc;

use harkara_queue::Verdict;
use harkara_queue::job::JobState;
use tokio::sync::{Barrier, Semaphore};

use crate::lost_workers::{Fleet, assert_at_rest, named};
use crate::support::{Fixture, Log, handler, number, numbered};

/// Job numbers that select the behavior of the handler.
const QUICK: u64 = 0;
const HANG: u64 = 1;
const MEET: u64 = 2;

#[tokio::test]
async fn hanging_keyed_lane_leaves_three_quarters_of_the_slots_to_others() {
    let fixture = Fixture::new().await;
    let (quick, hung, met) = (Log::new(), Log::new(), Arc::new(Barrier::new(6)));
    let go = Arc::new(Semaphore::new(0));
    let handler = {
        let (quick, hung, go) = (quick.clone(), hung.clone(), Arc::clone(&go));
        handler(move |run| {
            let (quick, hung, go) = (quick.clone(), hung.clone(), Arc::clone(&go));
            let met = Arc::clone(&met);
            async move {
                match number(&run) {
                    HANG => {
                        hung.write(run.job.id);
                        go.acquire().await.unwrap().forget();
                    }
                    MEET => {
                        met.wait().await;
                    }
                    _ => quick.write(run.job.id),
                }
                Verdict::done()
            }
        })
    };
    let fleet = Fleet::start(&fixture, 1, 8, &handler);
    // Quick jobs first, so that the worker prefetches more than it has slots for.
    fixture
        .enqueue_all((0..500).map(|_| numbered(QUICK)).collect())
        .await;
    quick.holds(500).await;
    let hanging = (0..500).map(|_| named("a", HANG)).collect();
    fixture.enqueue_all(hanging).await;
    hung.holds(2).await;
    for (key, jobs) in [(None, 60), (Some("b"), 12)] {
        // Six jobs of this number must run concurrently to finish.
        let others = (0..jobs).map(|_| match key {
            None => numbered(MEET),
            Some(key) => named(key, QUICK),
        });
        for other in fixture.enqueue_all(others.collect()).await {
            fixture
                .wait_for_state(other.id(), JobState::Succeeded)
                .await;
        }
    }
    assert_eq!(
        hung.len(),
        2,
        "hanging jobs keep their quarter although other slots were idle"
    );
    let held = "select coalesce(sum(n), 0)::int8 from queue.parcels where state = 'r'";
    assert_eq!(
        fixture.count(held).await,
        2,
        "no prefetched job waits in the worker"
    );
    go.add_permits(500);
    fixture.wait_until_idle().await;
    fleet.stop().await;
    assert_eq!(hung.len(), 500);
    assert_at_rest(&fixture).await;
}
