//! Tests that a dispatcher which cannot start a job waits, without statements or idle turns.

use harkara_shared::config::QueueConcurrency;
use harkara_shared::database::query;

use super::*;
use crate::job::{Lane, NewJob};
use crate::run::WorkerOptions;
use crate::settings::{Change, LimitChange};
use crate::testing::{Fixture, QUEUE, done, job, worker};

/// Most turns until a dispatcher has nothing to do: far more than it needs.
const MAX_TURNS: usize = 50;

struct DispatcherFixture {
    fixture: Fixture,
    state: Arc<WorkerState>,
    dispatcher: Dispatcher,
    tasks: Vec<mpsc::UnboundedReceiver<Task<Run>>>,
}

impl DispatcherFixture {
    /// With these queues and their numbers of slots.
    async fn new(slots: &[(&str, u32)]) -> Self {
        let fixture = Fixture::new().await;
        let queue = |(queue, concurrency): &(&str, u32)| QueueConcurrency {
            queue: (*queue).to_owned(),
            concurrency: *concurrency,
        };
        let options = WorkerOptions {
            info: worker(),
            queues: slots.iter().map(queue).collect(),
            lease: Duration::from_secs(60),
            drain: Duration::from_secs(60),
            memory: 64 << 20,
            listen_url: None,
        };
        let hour = Duration::from_secs(3600);
        let (state, channels) = WorkerState::new(fixture.engine.clone(), &options, hour);
        let state = Arc::new(state);
        state.set_lease(fixture.open_lease().await);
        Self {
            dispatcher: Dispatcher::new(Arc::clone(&state), channels.task_senders),
            fixture,
            state,
            tasks: channels.task_receivers,
        }
    }

    /// Takes turns until only the end of a run or a signal could give it more to do.
    async fn run_until_idle(&mut self) {
        for _ in 0..MAX_TURNS {
            match self.dispatcher.turn().await.unwrap() {
                NextTurn::Now => {}
                NextTurn::Wait(Some(until)) => tokio::time::sleep_until(until).await,
                NextTurn::Wait(None) => return,
            }
        }
        panic!("the dispatcher does not become idle");
    }

    /// The one job that was handed to the first queue's backend since the last call.
    fn dispatched(&mut self) -> ClaimedJob {
        let (run, _) = self.tasks[0].try_recv().unwrap().take();
        assert!(self.tasks[0].try_recv().is_err());
        run.job
    }
}

fn named(lane: &str) -> NewJob {
    NewJob {
        lane: Lane::Named(lane.to_owned()),
        ..job()
    }
}

#[tokio::test]
async fn lane_that_opens_while_all_slots_are_taken_is_claimed_when_one_is_free() {
    let mut dispatch = DispatcherFixture::new(&[(QUEUE, 1), ("other", 1)]).await;
    dispatch.fixture.enqueue(named("free")).await;
    let waiting = dispatch.fixture.enqueue(named("parked")).await;
    dispatch
        .fixture
        .execute(
            "update queue.lanes set parked_until = clock_timestamp() + interval '100 ms'
             where key = 'parked'",
        )
        .await;
    dispatch.run_until_idle().await;
    let open = "select count(*) from queue.lanes where parked_until <= clock_timestamp()";
    assert_eq!(dispatch.fixture.count(open).await, 1);
    let first = dispatch.dispatched();
    assert_ne!(first.id, waiting);
    dispatch.state.finish_run(first, Some(done()), None);
    dispatch.run_until_idle().await;
    assert_eq!(dispatch.dispatched().id, waiting);
}

#[tokio::test]
async fn full_limiter_is_tried_once_a_second_however_often_the_dispatcher_is_woken() {
    let mut dispatch = DispatcherFixture::new(&[(QUEUE, 8)]).await;
    dispatch.fixture.enqueue_all(vec![job(); 3]).await;
    let limit = LimitChange {
        max_running: Change::Set(1),
        ..LimitChange::default()
    };
    dispatch
        .fixture
        .engine
        .set_queue(QUEUE, &limit)
        .await
        .unwrap();
    assert!(matches!(
        dispatch.dispatcher.turn().await,
        Ok(NextTurn::Now)
    ));
    dispatch.dispatched();
    // Every claim locks the row of the limiter, which changes its xmax.
    let last_claim = "select max(greatest(xmin::text::int8, xmax::text::int8)) from queue.limiters";
    let (mut claims, mut last) = (0, dispatch.fixture.count(last_claim).await);
    let since = Instant::now();
    for _ in 0..MAX_TURNS {
        dispatch.state.wake.signal_new_work();
        assert!(
            matches!(dispatch.dispatcher.turn().await, Ok(NextTurn::Wait(Some(until))) if until > since)
        );
        let claim = dispatch.fixture.count(last_claim).await;
        claims += u64::from(claim != last);
        last = claim;
    }
    assert!(claims > 0, "claims do not show in the row");
    // The run may have ended in another worker, so one claim a second is right.
    assert!(claims <= 1 + since.elapsed().as_secs(), "{claims} claims");
}

#[tokio::test]
async fn new_job_is_dispatched_at_once_in_a_lane_that_had_only_lost_jobs() {
    let mut dispatch = DispatcherFixture::new(&[(QUEUE, 8)]).await;
    dispatch.fixture.enqueue(job()).await;
    dispatch
        .fixture
        .execute("update queue.parcels set lost = true")
        .await;
    dispatch.fixture.enqueue(job()).await;
    dispatch.run_until_idle().await;
    while let Ok(job) = dispatch.tasks[0].try_recv() {
        drop(job);
    }
    let next = dispatch.fixture.enqueue(job()).await;
    dispatch.dispatcher.search_duration = Duration::ZERO;
    dispatch.state.wake.signal_new_work();
    dispatch.run_until_idle().await;
    assert_eq!(dispatch.dispatched().id, next);
}

#[tokio::test]
async fn job_in_front_of_the_scan_position_is_dispatched_at_once() {
    let mut dispatch = DispatcherFixture::new(&[(QUEUE, 1)]).await;
    dispatch.fixture.enqueue(job()).await;
    dispatch.run_until_idle().await;
    let first = dispatch.dispatched();
    let urgent = NewJob {
        priority: 0,
        ..job()
    };
    let urgent = dispatch.fixture.enqueue(urgent).await;
    dispatch.dispatcher.search_duration = Duration::ZERO;
    // All signals are sent before the next turn.
    dispatch.state.wake.signal_new_work();
    dispatch.state.finish_run(first.clone(), Some(done()), None);
    dispatch.state.outcomes_written(std::iter::once(&first));
    dispatch.run_until_idle().await;
    assert_eq!(dispatch.dispatched().id, urgent);
}

#[tokio::test]
async fn lane_without_a_share_is_claimed_at_once_when_the_lanes_before_it_have_nothing() {
    let mut dispatch = DispatcherFixture::new(&[(QUEUE, 1)]).await;
    dispatch.fixture.enqueue(named("first")).await;
    let mut other_worker = dispatch.fixture.engine.pool().begin().await.unwrap();
    query("select from queue.parcels for update")
        .execute(&mut *other_worker)
        .await
        .unwrap();
    let free = dispatch.fixture.enqueue(named("second")).await;
    dispatch.run_until_idle().await;
    assert_eq!(dispatch.dispatched().id, free);
}

#[tokio::test]
async fn a_lane_that_opens_while_another_queue_is_asked_in_vain_is_asked_then() {
    let mut dispatch = DispatcherFixture::new(&[(QUEUE, 1), ("other", 1)]).await;
    let parked = dispatch.fixture.enqueue(named("parked")).await;
    let last = NewJob {
        queue: "other".to_owned(),
        lane: Lane::Ordered("line".to_owned()),
        ..job()
    };
    dispatch.fixture.enqueue(last).await;
    dispatch
        .fixture
        .execute(
            "update queue.lanes set parked_until = clock_timestamp() + interval '100 ms'
             where key = 'parked'",
        )
        .await;
    let mut slow = dispatch.fixture.engine.pool().begin().await.unwrap();
    query("select from queue.lanes where key = 'line' for update")
        .execute(&mut *slow)
        .await
        .unwrap();
    let vanishes = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        query("update queue.parcels set state = 'c', finished_at = now() where strict")
            .execute(&mut *slow)
            .await
            .unwrap();
        slow.commit().await.unwrap();
    };
    tokio::join!(dispatch.run_until_idle(), vanishes);
    assert_eq!(dispatch.dispatched().id, parked);
}
