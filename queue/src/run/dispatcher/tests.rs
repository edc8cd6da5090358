//! Tests when a dispatcher claims, and that it waits without statements when it can start no job.

use harkara_shared::config::QueueConcurrency;
use harkara_shared::database::query;

use super::*;
use crate::job::{Lane, NewJob};
use crate::run::WorkerOptions;
use crate::settings::{Change, LimitChange};
use crate::testing::{Fixture, QUEUE, done, job, worker};

/// Maximum turns until a dispatcher has nothing to do: far more than it needs.
const MAX_TURNS: usize = 50;

struct DispatcherFixture {
    fixture: Fixture,
    state: Arc<WorkerState>,
    dispatcher: Dispatcher,
    tasks: Vec<mpsc::UnboundedReceiver<Task<Run>>>,
}

impl DispatcherFixture {
    /// Creates a dispatcher for these queues with these numbers of slots.
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

    /// Takes turns until the dispatcher waits without a deadline.
    async fn run_until_idle(&mut self) {
        for _ in 0..MAX_TURNS {
            match self.dispatcher.take_turn().await.unwrap() {
                NextTurn::Now => {}
                NextTurn::Wait(Some(until)) => tokio::time::sleep_until(until).await,
                NextTurn::Wait(None) => return,
            }
        }
        panic!("the dispatcher does not become idle");
    }

    /// Receives the single job that was sent to the first queue's backend started_at the last call.
    fn receive_job(&mut self) -> ClaimedJob {
        let (run, _) = self.tasks[0].try_recv().unwrap().take();
        assert!(self.tasks[0].try_recv().is_err());
        run.job
    }
}

fn job_in_lane(lane: &str) -> NewJob {
    NewJob {
        lane: Lane::Named(lane.to_owned()),
        ..job()
    }
}

#[tokio::test]
async fn lane_that_opens_while_all_slots_are_taken_is_claimed_when_one_is_free() {
    let mut dispatch = DispatcherFixture::new(&[(QUEUE, 1), ("other", 1)]).await;
    dispatch.fixture.enqueue(job_in_lane("free")).await;
    let parked = dispatch.fixture.enqueue(job_in_lane("parked")).await;
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
    let first = dispatch.receive_job();
    assert_ne!(first.id, parked);
    dispatch.state.finish_run(first, Some(done()), None);
    dispatch.run_until_idle().await;
    assert_eq!(dispatch.receive_job().id, parked);
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
        dispatch.dispatcher.take_turn().await,
        Ok(NextTurn::Now)
    ));
    dispatch.receive_job();
    // Every claim locks the row of the limiter, which changes its xmax.
    let last_claim = "select max(greatest(xmin::text::int8, xmax::text::int8)) from queue.limiters";
    let (mut claims, mut last) = (0, dispatch.fixture.count(last_claim).await);
    let started_at = Instant::now();
    for _ in 0..MAX_TURNS {
        dispatch.state.wake.signal_new_work();
        assert!(
            matches!(dispatch.dispatcher.take_turn().await, Ok(NextTurn::Wait(Some(until))) if until > started_at)
        );
        let claim = dispatch.fixture.count(last_claim).await;
        claims += u64::from(claim != last);
        last = claim;
    }
    assert!(claims > 0, "claims do not show in the row");
    // The run may have ended in another worker, so one claim a second is right.
    assert!(
        claims <= 1 + started_at.elapsed().as_secs(),
        "{claims} claims"
    );
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
    assert_eq!(dispatch.receive_job().id, next);
}

#[tokio::test]
async fn job_in_front_of_the_cursor_is_dispatched_at_once() {
    let mut dispatch = DispatcherFixture::new(&[(QUEUE, 1)]).await;
    dispatch.fixture.enqueue(job()).await;
    dispatch.run_until_idle().await;
    let first = dispatch.receive_job();
    let urgent = NewJob {
        priority: 0,
        ..job()
    };
    let urgent = dispatch.fixture.enqueue(urgent).await;
    dispatch.dispatcher.search_duration = Duration::ZERO;
    // All signals are sent before the next turn.
    dispatch.state.wake.signal_new_work();
    dispatch.state.finish_run(first.clone(), Some(done()), None);
    dispatch
        .state
        .record_written_outcomes(std::iter::once(&first));
    dispatch.run_until_idle().await;
    assert_eq!(dispatch.receive_job().id, urgent);
}

#[tokio::test]
async fn lane_without_allocated_jobs_is_claimed_at_once_when_other_lanes_give_none() {
    let mut dispatch = DispatcherFixture::new(&[(QUEUE, 1)]).await;
    dispatch.fixture.enqueue(job_in_lane("first")).await;
    let mut other_worker = dispatch.fixture.engine.pool().begin().await.unwrap();
    query("select from queue.parcels for update")
        .execute(&mut *other_worker)
        .await
        .unwrap();
    let second = dispatch.fixture.enqueue(job_in_lane("second")).await;
    dispatch.run_until_idle().await;
    assert_eq!(dispatch.receive_job().id, second);
}

#[tokio::test]
async fn lane_that_opens_during_a_claim_in_another_queue_is_claimed() {
    let mut dispatch = DispatcherFixture::new(&[(QUEUE, 1), ("other", 1)]).await;
    let parked = dispatch.fixture.enqueue(job_in_lane("parked")).await;
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
    let end_job_slowly = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        query("update queue.parcels set state = 'c', finished_at = now() where strict")
            .execute(&mut *slow)
            .await
            .unwrap();
        slow.commit().await.unwrap();
    };
    tokio::join!(dispatch.run_until_idle(), end_job_slowly);
    assert_eq!(dispatch.receive_job().id, parked);
}
