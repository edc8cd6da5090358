//! Helpers for tests with several workers: fleets, workers that die, named lanes, and invariants of an
//! idle database.

use std::sync::Arc;

use harkara_queue::job::{Lane, LimitUse, NewJob};
use harkara_queue::{Handler, Run, WorkerOptions};
use harkara_shared::database::query_scalar;
use tokio_util::sync::CancellationToken;

use crate::support::{Fixture, QUEUE, RunningWorker, numbered, options, until, with_timeout};

/// Several workers of one queue.
pub(crate) struct Fleet(pub(crate) Vec<RunningWorker>);

impl Fleet {
    pub(crate) fn start(
        fixture: &Fixture,
        workers: usize,
        concurrency: u32,
        handler: &Arc<dyn Handler>,
    ) -> Self {
        let start =
            |_| fixture.start_worker_with(options(&[(QUEUE, concurrency)]), Arc::clone(handler));
        Self((0..workers).map(start).collect())
    }

    pub(crate) async fn stop(self) {
        for worker in &self.0 {
            worker.request_stop();
        }
        for worker in self.0 {
            worker.stop().await;
        }
    }
}

/// Options of a worker that puts its runs back immediately when it stops.
pub(crate) fn options_without_drain(concurrency: u32) -> WorkerOptions {
    WorkerOptions {
        drain: std::time::Duration::ZERO,
        ..options(&[(QUEUE, concurrency)])
    }
}

/// Kills the worker and expires its lease. The worker's statements have ended when this returns; no
/// other worker may be running.
pub(crate) async fn kill_and_expire(fixture: &Fixture, worker: RunningWorker) {
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

/// A job of the default lane that is subject to the tenant's limit `key`.
pub(crate) fn limited(key: &str, cost: u16, number: u64) -> NewJob {
    NewJob {
        limits: vec![LimitUse {
            key: key.to_owned(),
            cost,
        }],
        ..numbered(number)
    }
}

/// Runs until it is stopped.
pub(crate) async fn run_forever(run: &Run) {
    let gone: &CancellationToken = &run.cancel;
    gone.cancelled().await;
    std::future::pending::<()>().await;
}

/// The number of jobs in this state, by their rows.
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

/// Asserts that nothing is held while nothing runs, and that no deadlock occurred.
pub(crate) async fn assert_at_rest(fixture: &Fixture) {
    for (what, sql) in [
        (
            "slots held in limiters",
            "select coalesce(sum(running), 0) from queue.limiters",
        ),
        (
            "lanes that have a head",
            "select count(*) from queue.lanes where head is not null",
        ),
        (
            "half-open breakers",
            "select count(*) from queue.lanes where breaker = 'h'",
        ),
        (
            "rows in state running",
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
