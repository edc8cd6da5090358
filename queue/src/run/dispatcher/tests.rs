//! A dispatcher that cannot start anything waits: it neither asks the database nor turns in vain.

use harkara_shared::config::QueueConcurrency;
use harkara_shared::database::query;

use super::*;
use crate::job::{Lane, NewJob};
use crate::run::WorkerOptions;
use crate::settings::{Change, LimitChange};
use crate::testing::{QUEUE, Stand, done, job, worker};

/// Turns that a dispatcher may take until it has nothing to do: far more than it needs.
const FEW: usize = 50;

struct Dispatching {
    stand: Stand,
    desk: Arc<Desk>,
    round: Round,
    tasks: Vec<mpsc::UnboundedReceiver<Task<Run>>>,
}

impl Dispatching {
    /// With so many places in each queue.
    async fn new(places: &[(&str, u32)]) -> Self {
        let stand = Stand::new().await;
        let queue = |(queue, concurrency): &(&str, u32)| QueueConcurrency {
            queue: (*queue).to_owned(),
            concurrency: *concurrency,
        };
        let options = WorkerOptions {
            info: worker(),
            queues: places.iter().map(queue).collect(),
            lease: Duration::from_secs(60),
            drain: Duration::from_secs(60),
            memory: 64 << 20,
            listen_url: None,
        };
        let hour = Duration::from_secs(3600);
        let (desk, ends) = Desk::new(stand.engine.clone(), &options, hour);
        let desk = Arc::new(desk);
        desk.take_lease(stand.open_lease().await);
        Self {
            round: Round::new(Arc::clone(&desk), ends.senders),
            stand,
            desk,
            tasks: ends.tasks,
        }
    }

    /// Goes on until only the end of a run or news could have it do more.
    async fn until_nothing_is_left(&mut self) {
        for _ in 0..FEW {
            match self.round.turn().await.unwrap() {
                Next::Again => {}
                Next::Wait(Some(until)) => tokio::time::sleep_until(until).await,
                Next::Wait(None) => return,
            }
        }
        panic!("it turns and turns");
    }

    /// The one job that was handed to the first queue's line since the last call.
    fn begun(&mut self) -> Claimed {
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
async fn a_lane_that_opens_while_all_places_are_taken_is_left_until_one_is_free() {
    let mut one = Dispatching::new(&[(QUEUE, 1), ("other", 1)]).await;
    one.stand.enqueue(named("free")).await;
    let waiting = one.stand.enqueue(named("parked")).await;
    one.stand
        .execute(
            "update queue.lanes set parked_until = clock_timestamp() + interval '100 ms'
             where key = 'parked'",
        )
        .await;
    one.until_nothing_is_left().await;
    let open = "select count(*) from queue.lanes where parked_until <= clock_timestamp()";
    assert_eq!(one.stand.count(open).await, 1);
    let first = one.begun();
    assert_ne!(first.id, waiting);
    one.desk.end(first, Some(done()), None);
    one.until_nothing_is_left().await;
    assert_eq!(one.begun().id, waiting);
}

#[tokio::test]
async fn a_limiter_that_is_full_is_asked_once_and_then_left_alone_however_often_it_is_woken() {
    let mut one = Dispatching::new(&[(QUEUE, 8)]).await;
    one.stand.enqueue_all(vec![job(); 3]).await;
    let limit = LimitChange {
        max_running: Change::Set(1),
        ..LimitChange::default()
    };
    one.stand.engine.set_queue(QUEUE, &limit).await.unwrap();
    assert!(matches!(one.round.turn().await, Ok(Next::Again)));
    one.begun();
    // Every claim locks the limiter, which its row tells.
    let last_claim = "select max(greatest(xmin::text::int8, xmax::text::int8)) from queue.limiters";
    let (mut claims, mut last) = (0, one.stand.count(last_claim).await);
    let since = Instant::now();
    for _ in 0..FEW {
        one.desk.tell_news();
        assert!(matches!(one.round.turn().await, Ok(Next::Wait(Some(until))) if until > since));
        let claim = one.stand.count(last_claim).await;
        claims += u64::from(claim != last);
        last = claim;
    }
    assert!(claims > 0, "it would not have been seen");
    // It may have ended in another worker: that is asked each second.
    assert!(claims <= 1 + since.elapsed().as_secs(), "{claims} claims");
}

#[tokio::test]
async fn a_job_is_begun_at_once_in_a_lane_that_had_nothing_left_but_lost_ones() {
    let mut one = Dispatching::new(&[(QUEUE, 8)]).await;
    one.stand.enqueue(job()).await;
    one.stand
        .execute("update queue.parcels set lost = true")
        .await;
    one.stand.enqueue(job()).await;
    one.until_nothing_is_left().await;
    while let Ok(begun) = one.tasks[0].try_recv() {
        drop(begun);
    }
    let next = one.stand.enqueue(job()).await;
    one.round.look_took = Duration::ZERO;
    one.desk.tell_news();
    one.until_nothing_is_left().await;
    assert_eq!(one.begun().id, next);
}

#[tokio::test]
async fn a_job_that_comes_to_stand_before_where_a_claim_would_go_on_is_begun_at_once() {
    let mut one = Dispatching::new(&[(QUEUE, 1)]).await;
    one.stand.enqueue(job()).await;
    one.until_nothing_is_left().await;
    let first = one.begun();
    let urgent = NewJob {
        priority: 0,
        ..job()
    };
    let urgent = one.stand.enqueue(urgent).await;
    one.round.look_took = Duration::ZERO;
    // All that would wake it has been said before it turns again.
    one.desk.tell_news();
    one.desk.end(first.clone(), Some(done()), None);
    one.desk.written(std::iter::once(&first));
    one.until_nothing_is_left().await;
    assert_eq!(one.begun().id, urgent);
}

#[tokio::test]
async fn a_lane_without_a_share_is_asked_at_once_when_those_before_it_have_nothing() {
    let mut one = Dispatching::new(&[(QUEUE, 1)]).await;
    one.stand.enqueue(named("first")).await;
    let mut other_worker = one.stand.engine.pool().begin().await.unwrap();
    query("select from queue.parcels for update")
        .execute(&mut *other_worker)
        .await
        .unwrap();
    let free = one.stand.enqueue(named("second")).await;
    one.until_nothing_is_left().await;
    assert_eq!(one.begun().id, free);
}

#[tokio::test]
async fn a_lane_that_opens_while_another_queue_is_asked_in_vain_is_asked_then() {
    let mut one = Dispatching::new(&[(QUEUE, 1), ("other", 1)]).await;
    let parked = one.stand.enqueue(named("parked")).await;
    let last = NewJob {
        queue: "other".to_owned(),
        lane: Lane::Ordered("line".to_owned()),
        ..job()
    };
    one.stand.enqueue(last).await;
    one.stand
        .execute(
            "update queue.lanes set parked_until = clock_timestamp() + interval '100 ms'
             where key = 'parked'",
        )
        .await;
    let mut slow = one.stand.engine.pool().begin().await.unwrap();
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
    tokio::join!(one.until_nothing_is_left(), vanishes);
    assert_eq!(one.begun().id, parked);
}
