//! What tests of several workers share: fleets, workers that die, lanes by name, and what a database
//! that came to rest must look like.

use std::sync::Arc;

use harkara_queue::job::{Lane, LimitUse, NewJob};
use harkara_queue::{Handler, Run, WorkerOptions};
use harkara_shared::database::query_scalar;
use tokio_util::sync::CancellationToken;

use crate::support::{Fixture, QUEUE, Working, numbered, options, until, with_timeout};

/// Several workers of one queue.
pub(crate) struct Fleet(pub(crate) Vec<Working>);

impl Fleet {
    pub(crate) fn start(
        fixture: &Fixture,
        workers: usize,
        concurrency: u32,
        handler: &Arc<dyn Handler>,
    ) -> Self {
        let start = |_| fixture.work_as(options(&[(QUEUE, concurrency)]), Arc::clone(handler));
        Self((0..workers).map(start).collect())
    }

    pub(crate) async fn stop(self) {
        for worker in &self.0 {
            worker.tell();
        }
        for worker in self.0 {
            worker.stop().await;
        }
    }
}

/// Options of a worker that puts back at once what it runs when it is told to stop.
pub(crate) fn impatient(concurrency: u32) -> WorkerOptions {
    WorkerOptions {
        drain: std::time::Duration::ZERO,
        ..options(&[(QUEUE, concurrency)])
    }
}

/// The worker dies without a word, and its lease is over. What it had asked of the database is over
/// too when this returns; nobody else may be at work.
pub(crate) async fn die(fixture: &Fixture, worker: Working) {
    worker.task.abort();
    with_timeout("the worker dies", worker.task)
        .await
        .unwrap_err();
    until("its statements end", async || {
        let busy = "select count(*) from pg_stat_activity
            where datname = current_database() and state <> 'idle' and pid <> pg_backend_pid()";
        fixture.count(busy).await == 0
    })
    .await;
    let over = "update queue.leases set expires_at = now() - interval '1 second'
        where closed_at is null";
    fixture.execute(over).await;
}

pub(crate) fn ordered(key: &str, number: u64) -> NewJob {
    NewJob {
        lane: Lane::Ordered(key.to_owned()),
        ..numbered(number)
    }
}

pub(crate) fn named(key: &str, number: u64) -> NewJob {
    NewJob {
        lane: Lane::Named(key.to_owned()),
        ..numbered(number)
    }
}

/// A job of the default lane that passes the tenant's limit `key`.
pub(crate) fn limited(key: &str, cost: u16, number: u64) -> NewJob {
    NewJob {
        limits: vec![LimitUse {
            key: key.to_owned(),
            cost,
        }],
        ..numbered(number)
    }
}

/// Runs until somebody stops it.
pub(crate) async fn for_ever(run: &Run) {
    let gone: &CancellationToken = &run.cancel;
    gone.cancelled().await;
    std::future::pending::<()>().await;
}

/// How many jobs are in this state, as rows tell.
pub(crate) async fn jobs_in(fixture: &Fixture, state: &str) -> i64 {
    query_scalar(
        "select coalesce(sum(case
                when state = 'd' then n - coalesce(cardinality(gone), 0)
                    * (cardinality(body) > 0)::int - (cardinality(body) = 0)::int
                else n - coalesce(cardinality(gone), 0) - coalesce(cardinality(acked), 0)
            end), 0)::int8
         from queue.parcels where state = $1::text::\"char\"",
    )
    .bind(state)
    .fetch_one(&fixture.pool())
    .await
    .unwrap()
}

/// Nothing is held when nothing runs, and the database broke no deadlock.
pub(crate) async fn is_at_rest(fixture: &Fixture) {
    for (what, sql) in [
        (
            "places held at limiters",
            "select coalesce(sum(running), 0) from queue.limiters",
        ),
        (
            "lanes with a head",
            "select count(*) from queue.lanes where head is not null",
        ),
        (
            "half-open breakers",
            "select count(*) from queue.lanes where breaker = 'h'",
        ),
        (
            "rows that run",
            "select count(*) from queue.parcels where state = 'r'",
        ),
        (
            "deadlocks",
            "select deadlocks from pg_stat_database where datname = current_database()",
        ),
    ] {
        assert_eq!(fixture.count(sql).await, 0, "{what}");
    }
    fixture.assert_counts_agree().await;
}
