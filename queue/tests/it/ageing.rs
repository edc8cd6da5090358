//! Priorities: the first goes first, and the last is not starved.

use std::time::Duration;

use harkara_queue::Verdict;
use harkara_queue::job::{NewJob, Unique};
use harkara_queue::settings::{Change, LimitChange, TenantChange};

use crate::support::{Log, QUEUE, Stand, handler, job, number, numbered, options};

/// Jobs of the highest priority.
const URGENT: u64 = 2000;

/// A job in a row of its own.
fn single(number: u64, priority: u8) -> NewJob {
    NewJob {
        priority,
        unique: Some(Unique {
            key: format!("{number}"),
            hold: None,
        }),
        ..numbered(number)
    }
}

/// In which order jobs run of which the one that was first is of the lowest priority.
async fn order(limit: LimitChange) -> Vec<u64> {
    let stand = Stand::new().await;
    let change = TenantChange {
        limit,
        ..TenantChange::default()
    };
    stand
        .engine
        .set_tenant(stand.tenant, &change)
        .await
        .unwrap();
    stand.enqueue(single(URGENT, 9)).await;
    stand
        .enqueue_all((0..URGENT).map(|number| single(number, 0)).collect())
        .await;
    let ran = Log::new();
    let noted = ran.clone();
    let worker = stand.work_as(
        options(&[(QUEUE, 1)]),
        handler(move |run| {
            noted.write(number(&run));
            async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Verdict::done()
            }
        }),
    );
    ran.holds(usize::try_from(URGENT).unwrap() + 1).await;
    worker.stop().await;
    ran.read()
}

fn place(order: &[u64]) -> usize {
    order.iter().position(|number| *number == URGENT).unwrap()
}

#[tokio::test]
async fn a_job_of_the_lowest_priority_runs_before_all_more_urgent_ones_have() {
    let order = order(LimitChange::default()).await;
    let place = place(&order);
    assert!(place > 0, "the urgent ones come first");
    assert!(place < 1900, "it came after {place} of {URGENT}");
}

#[tokio::test]
async fn in_a_limited_lane_too() {
    let one_at_a_time = LimitChange {
        max_running: Change::Set(1),
        ..LimitChange::default()
    };
    let place = place(&order(one_at_a_time).await);
    assert!(
        (1..1900).contains(&place),
        "it came after {place} of {URGENT}"
    );
}

#[tokio::test]
async fn without_a_backlog_the_more_urgent_goes_first() {
    let stand = Stand::new().await;
    let jobs = [9, 5, 0, 7].map(|priority| NewJob { priority, ..job() });
    for job in jobs {
        stand.enqueue(job).await;
    }
    let ran = Log::new();
    let noted = ran.clone();
    let worker = stand.work_as(
        options(&[(QUEUE, 1)]),
        handler(move |run| {
            noted.write(run.job.id);
            async { Verdict::done() }
        }),
    );
    ran.holds(4).await;
    let mut priorities = Vec::new();
    for id in ran.read() {
        priorities.push(stand.job(id).await.priority);
    }
    assert_eq!(priorities, [0, 5, 7, 9]);
    worker.stop().await;
}
