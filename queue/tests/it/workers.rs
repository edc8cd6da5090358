//! Lists of workers, as the platform and as a tenant sees them.

use std::sync::Arc;

use harkara_queue::job::{JobState, NewJob};
use harkara_queue::settings::QueueView;
use harkara_shared::id::TenantId;
use tokio::sync::Semaphore;

use crate::explain::waiting_for_permit;
use crate::lost_workers::kill_and_expire;
use crate::support::{Fixture, QUEUE, numbered, options, succeeding_handler, until};

#[tokio::test]
async fn live_worker_is_listed_with_its_queues_and_running_jobs() {
    let fixture = Fixture::new().await;
    let leave = Arc::new(Semaphore::new(0));
    let settings = options(&[(QUEUE, 8), ("other", 3)]);
    let (id, before) = (settings.info.id, fixture.now().await);
    let ids = fixture
        .enqueue_jobs(true, (0..3).map(numbered).collect())
        .await;
    let worker = fixture.start_worker_with(settings, waiting_for_permit(&leave));
    fixture.wait_for_state(ids[2], JobState::Running).await;
    let single = fixture.enqueue(numbered(3)).await.id();
    fixture.wait_for_state(single, JobState::Running).await;
    let seen = fixture
        .engine
        .workers(QueueView::All, None, 10)
        .await
        .unwrap();
    assert_eq!(seen.len(), 1);
    let one = &seen[0];
    assert_eq!(
        (one.id, one.host.as_deref(), &*one.version),
        (id, Some("test"), "0")
    );
    assert!(one.started_at >= before && one.last_seen_at >= one.started_at);
    let queues = [(QUEUE.to_owned(), 8), ("other".to_owned(), 3)];
    assert_eq!(one.queues, queues.into());
    assert_eq!(one.running, 4);
    leave.add_permits(2);
    until("two jobs have finished", async || {
        let seen = fixture
            .engine
            .workers(QueueView::All, None, 10)
            .await
            .unwrap();
        seen[0].running == 2
    })
    .await;
    leave.add_permits(2);
    worker.stop().await;
    let seen = fixture
        .engine
        .workers(QueueView::All, None, 10)
        .await
        .unwrap();
    assert_eq!(seen, []);
    // A dead worker disappears when its lease has expired.
    let worker = fixture.start_worker(succeeding_handler());
    until("the worker is listed", async || {
        let seen = fixture
            .engine
            .workers(QueueView::All, None, 10)
            .await
            .unwrap();
        seen.len() == 1
    })
    .await;
    kill_and_expire(&fixture, worker).await;
    let seen = fixture
        .engine
        .workers(QueueView::All, None, 10)
        .await
        .unwrap();
    assert_eq!(seen, []);
}

#[tokio::test]
async fn tenant_sees_no_worker_hosts_and_only_its_own_queues_and_jobs() {
    let fixture = Fixture::new().await;
    let leave = Arc::new(Semaphore::new(0));
    let secret = options(&[("theirs", 1)]);
    let open = options(&[(QUEUE, 8), ("theirs", 2), ("http", 1)]);
    let stranger = TenantId::new();
    let theirs = NewJob {
        queue: "theirs".to_owned(),
        ..numbered(9)
    };
    let theirs = fixture.enqueue_for(stranger, vec![theirs]).await[0].id();
    let strangers: Vec<NewJob> = (0..3).map(numbered).collect();
    fixture.enqueue_for(stranger, strangers).await;
    let own = fixture
        .enqueue_jobs(true, (0..2).map(numbered).collect())
        .await;
    let ids = (open.info.id, secret.info.id);
    let open = fixture.start_worker_with(open, waiting_for_permit(&leave));
    let secret = fixture.start_worker_with(secret, waiting_for_permit(&leave));
    fixture.wait_for_state(own[1], JobState::Running).await;
    until("all jobs run", async || fixture.jobs("r").await == 6).await;
    let all = fixture
        .engine
        .workers(QueueView::All, None, 10)
        .await
        .unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all.iter().map(|one| one.running).sum::<u64>(), 6);
    let view = QueueView::VisibleTo(fixture.tenant, &["http"]);
    let seen = fixture.engine.workers(view, None, 10).await.unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (seen[0].id, &seen[0].host, seen[0].running),
        (ids.0, &None, 2)
    );
    let queues: Vec<&str> = seen[0].queues.keys().map(String::as_str).collect();
    assert_eq!(queues, [QUEUE, "http"]);
    // A tenant unknown to the engine sees what is visible to every tenant.
    let view = QueueView::VisibleTo(TenantId::new(), &["http"]);
    let seen = fixture.engine.workers(view, None, 10).await.unwrap();
    assert_eq!((seen.len(), seen[0].running), (1, 0));
    // Pagination.
    let first = fixture
        .engine
        .workers(QueueView::All, None, 1)
        .await
        .unwrap();
    let next = fixture
        .engine
        .workers(QueueView::All, Some(first[0].id), 1)
        .await
        .unwrap();
    let mut paged = [first[0].id, next[0].id];
    paged.sort_unstable();
    let mut both = [ids.0, ids.1];
    both.sort_unstable();
    assert_eq!(paged, both);
    leave.add_permits(9);
    open.stop().await;
    secret.stop().await;
    let _ = theirs;
}
