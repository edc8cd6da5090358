//! Erasure: all engine data of a tenant is deleted, without effect on other tenants.

use std::sync::atomic::{AtomicBool, Ordering};

use harkara_queue::job::{JobState, Lane, LimitUse, NewJob, Unique};
use harkara_queue::settings::{Change, LimitChange, Rate, TenantChange};
use harkara_queue::{ErasureProgress, Quota, Verdict};
use harkara_shared::database::{TenantTx, query_scalar};
use harkara_shared::id::{JobId, TenantId};
use tokio_util::sync::CancellationToken;

use crate::lost_workers::{Fleet, assert_at_rest};
use crate::support::{
    Fixture, error, failed, handler, handler_observing_cancel, job, number, numbered, until,
    with_timeout,
};

/// The number of rows of a tenant in each of the engine's tables; tables without a row are
/// omitted.
const REMAINING_ROWS: &str = "select c.table_name || ': ' || n.rows
    from information_schema.columns c
    join pg_class t on t.oid = ('queue.' || c.table_name)::regclass and not t.relispartition
    cross join lateral (
        select (xpath('/row/rows/text()', query_to_xml(format(
            'select count(*) as rows from queue.%I where %I = %s', c.table_name, c.column_name, $1
        ), false, true, '')))[1]::text::int8 as rows
    ) n
    where c.table_schema = 'queue' and c.column_name in ('tenant', 'number')
      and t.relkind in ('r', 'p') and n.rows > 0
    order by 1";

async fn number_of(fixture: &Fixture, tenant: TenantId) -> i32 {
    query_scalar("select number from queue.tenants where id = $1")
        .bind(tenant)
        .fetch_one(&fixture.pool())
        .await
        .unwrap()
}

async fn remaining_rows(fixture: &Fixture, number: i32) -> Vec<String> {
    query_scalar(REMAINING_ROWS)
        .bind(number)
        .fetch_all(&fixture.pool())
        .await
        .unwrap()
}

/// Erases until nothing is left.
async fn erase(fixture: &Fixture, tenant: TenantId) -> ErasureProgress {
    let mut total = ErasureProgress::default();
    with_timeout("the tenant is erased", async {
        while !total.finished {
            let done = fixture.engine.erase_tenant(tenant).await.unwrap();
            total.finished = done.finished;
            total.jobs += done.jobs;
            total.rows += done.rows;
            tokio::task::yield_now().await;
        }
    })
    .await;
    total
}

/// Jobs of every kind: packed, single, ordered, limited, keyed, tagged, scheduled.
fn jobs_of_every_kind(first: u64) -> Vec<NewJob> {
    let mut jobs: Vec<NewJob> = (first..first + 600).map(numbered).collect();
    let sorts = (0..40).map(|n| NewJob {
        lane: match n % 3 {
            0 => Lane::Default,
            1 => Lane::Named(format!("n{n}")),
            _ => Lane::Ordered("line".to_owned()),
        },
        limits: match n % 4 {
            0 => vec![LimitUse {
                key: "crm".to_owned(),
                cost: 1,
            }],
            _ => Vec::new(),
        },
        unique: (n % 5 == 0).then(|| Unique {
            key: format!("k{n}"),
            hold: None,
        }),
        tags: vec!["red".to_owned()],
        delay: std::time::Duration::from_secs(if n % 7 == 0 { 3600 } else { 0 }),
        ..numbered(first + 600 + n)
    });
    jobs.extend(sorts);
    jobs
}

fn any_verdict(number: u64) -> Verdict {
    match number % 5 {
        0 => failed("again"),
        1 => Verdict::Dead {
            error: error("gone"),
        },
        2 => Verdict::Cancelled,
        _ => Verdict::done(),
    }
}

async fn limit(fixture: &Fixture, tenant: TenantId) {
    let change = TenantChange {
        limit: LimitChange {
            max_running: Change::Set(50),
            ..LimitChange::rate(Rate {
                count: 1_000_000,
                per: std::time::Duration::from_secs(1),
                burst: 1_000_000,
            })
        },
        ..TenantChange::default()
    };
    fixture.engine.set_tenant(tenant, &change).await.unwrap();
}

#[tokio::test]
async fn erasure_removes_a_tenant_from_every_table_and_keeps_others() {
    let fixture = Fixture::new().await;
    let other = TenantId::new();
    fixture.enqueue_all(jobs_of_every_kind(0)).await;
    fixture.enqueue_for(other, jobs_of_every_kind(0)).await;
    limit(&fixture, fixture.tenant).await;
    limit(&fixture, other).await;
    let worker = fixture.start_worker(handler(async |run| any_verdict(number(&run))));
    let ready = "select count(*) from queue.parcels where state in ('a', 'r')";
    until("all due jobs have run", async || {
        fixture.count(ready).await == 0
    })
    .await;
    worker.stop().await;
    for tenant in [fixture.tenant, other] {
        fixture.enqueue_for(tenant, jobs_of_every_kind(5000)).await;
    }
    fixture.engine.roll_up().await.unwrap();
    let (gone, kept) = (
        number_of(&fixture, fixture.tenant).await,
        number_of(&fixture, other).await,
    );
    let before = remaining_rows(&fixture, kept).await;
    let tables = remaining_rows(&fixture, gone).await;
    for table in [
        "attempts",
        "limiters",
        "history",
        "labels",
        "lanes",
        "parcels",
        "shares",
        "tallies",
        "tenants",
        "unique_keys",
    ] {
        let named = format!("{table}: ");
        assert!(
            tables.iter().any(|line| line.starts_with(&named)),
            "{table} holds nothing to erase: {tables:?}"
        );
    }

    let done = erase(&fixture, fixture.tenant).await;
    assert!(done.jobs > 640, "{done:?}");
    assert_eq!(remaining_rows(&fixture, gone).await, Vec::<String>::new());
    assert_eq!(remaining_rows(&fixture, kept).await, before);
    assert_at_rest(&fixture).await;

    let again = fixture.engine.erase_tenant(fixture.tenant).await.unwrap();
    let nothing = ErasureProgress {
        finished: true,
        ..ErasureProgress::default()
    };
    assert_eq!(again, nothing);
    assert_eq!(
        fixture.engine.erase_tenant(TenantId::new()).await.unwrap(),
        nothing
    );
    assert_eq!(remaining_rows(&fixture, kept).await, before);
}

#[tokio::test]
async fn erasure_cancels_running_jobs_and_waits_for_them() {
    let fixture = Fixture::new().await;
    let go_on = CancellationToken::new();
    let may_end = go_on.clone();
    let worker = fixture.start_worker(handler_observing_cancel(move |run| {
        let may_end = may_end.clone();
        async move {
            run.cancel.cancelled().await;
            may_end.cancelled().await;
            Verdict::Cancelled
        }
    }));
    let running = fixture.enqueue(job()).await.id();
    fixture.wait_for_state(running, JobState::Running).await;
    let tenant = number_of(&fixture, fixture.tenant).await;
    let at = fixture.now().await + chrono::Duration::days(1);
    fixture
        .enqueue(NewJob {
            run_at: Some(at),
            ..job()
        })
        .await;

    for jobs in [1, 0] {
        let done = fixture.engine.erase_tenant(fixture.tenant).await.unwrap();
        assert_eq!(
            (done.finished, done.running, done.jobs),
            (false, 1, jobs),
            "the waiting job must be erased, the running one kept"
        );
    }
    go_on.cancel();
    let running = "select count(*) from queue.parcels where state = 'r'";
    until("the run ends", async || fixture.count(running).await == 0).await;
    erase(&fixture, fixture.tenant).await;
    assert_eq!(remaining_rows(&fixture, tenant).await, Vec::<String>::new());
    worker.stop().await;
    assert_at_rest(&fixture).await;
}

#[tokio::test]
async fn erasure_removes_jobs_of_a_dead_worker_after_their_rescue() {
    let fixture = Fixture::new().await;
    let worker = fixture.start_worker(handler(async |run| {
        crate::lost_workers::run_forever(&run).await;
        Verdict::done()
    }));
    let id = fixture.enqueue(job()).await.id();
    fixture.wait_for_state(id, JobState::Running).await;
    crate::lost_workers::kill_and_expire(&fixture, worker).await;
    let done = fixture.engine.erase_tenant(fixture.tenant).await.unwrap();
    assert_eq!((done.finished, done.running), (false, 1));
    fixture.engine.rescue().await.unwrap();
    assert_eq!(erase(&fixture, fixture.tenant).await.jobs, 1);
    assert_at_rest(&fixture).await;
}

#[tokio::test]
async fn tenant_being_erased_accepts_no_jobs() {
    let fixture = Fixture::new().await;
    fixture.enqueue(job()).await;
    // An enqueue whose transaction stays open for a while.
    let mut late = fixture.tx().await;
    fixture
        .engine
        .enqueue_all(&mut late, fixture.tenant, vec![job()], Quota::Skip)
        .await
        .unwrap();
    let done = fixture.engine.erase_tenant(fixture.tenant).await.unwrap();
    assert_eq!((done.finished, done.jobs), (false, 1));
    // Later callers find no such tenant.
    let mut tx = fixture.tx().await;
    let refused = fixture
        .engine
        .enqueue_all(&mut tx, fixture.tenant, vec![job()], Quota::Skip)
        .await;
    assert!(refused.is_err());
    drop(tx);
    late.commit().await.unwrap();
    assert_eq!(erase(&fixture, fixture.tenant).await.jobs, 1);
    assert_eq!(fixture.count("select count(*) from queue.parcels").await, 0);
    fixture.assert_counts_agree().await;
}

#[tokio::test]
async fn erasure_removes_more_than_one_batch_in_a_call() {
    let fixture = Fixture::new().await;
    let other = TenantId::new();
    for tenant in [fixture.tenant, other] {
        let jobs = (0..2500).map(|n| NewJob {
            tags: vec!["red".to_owned()],
            lane: Lane::Named(n.to_string()),
            ..numbered(n)
        });
        fixture.enqueue_for(tenant, jobs.collect()).await;
    }
    fixture
        .execute(
            "insert into queue.attempts (job_id, tenant, started_at, finished_at, outcome)
             select g, t.number, now(), now() - g * interval '1 minute', 'lost'
             from queue.tenants t, generate_series(1, 2500) g",
        )
        .await;
    assert_eq!(erase(&fixture, fixture.tenant).await.jobs, 2500);
    for (table, rows) in [
        ("select count(*) from queue.attempts", 2500),
        ("select count(*) from queue.lanes", 2500),
        ("select count(*) from queue.labels", 2500),
        ("select count(*) from queue.parcels", 2500),
    ] {
        assert_eq!(fixture.count(table).await, rows, "{table}");
    }
    fixture.assert_counts_agree().await;
}

/// The tenant's jobs fail and are settled during its erasure; jobs of another tenant continue.
#[tokio::test]
async fn tenant_is_erased_while_other_tenants_work() {
    let fixture = Fixture::new().await;
    let other = TenantId::new();
    let work = handler(async |run| match run.job.attempt {
        1 => any_verdict(number(&run)),
        _ => Verdict::done(),
    });
    let fleet = Fleet::start(&fixture, 2, 16, &work);
    let over = AtomicBool::new(false);
    let others = async {
        let mut ids: Vec<JobId> = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let answers = fixture.enqueue_for(other, jobs_of_every_kind(0)).await;
            ids.extend(answers.iter().map(|answer| answer.id()));
            let most = "select count(*) from queue.parcels where state = 'a'";
            until("the backlog has room", async || {
                fixture.count(most).await < 300
            })
            .await;
        }
        ids
    };
    let erased = async {
        for round in 0..4 {
            let tenant = TenantId::new();
            fixture.enqueue_for(tenant, jobs_of_every_kind(round)).await;
            limit(&fixture, tenant).await;
            let gone = number_of(&fixture, tenant).await;
            until("some of its jobs have run", async || {
                let mut tx = TenantTx::begin(&fixture.pool(), tenant).await.unwrap();
                let run: i64 = query_scalar("select count(*) from queue.attempts")
                    .fetch_one(&mut *tx)
                    .await
                    .unwrap();
                run > 0
            })
            .await;
            erase(&fixture, tenant).await;
            // Workers can write its fair share once more: a number without personal data.
            let mut left = remaining_rows(&fixture, gone).await;
            left.retain(|line| !line.starts_with("shares"));
            assert_eq!(left, Vec::<String>::new());
        }
        over.store(true, Ordering::Relaxed);
    };
    let (mut ids, ()) = tokio::join!(others, erased);
    until("the jobs of the other tenant have finished", async || {
        fixture
            .count("select count(*) from queue.parcels where state in ('a', 'r')")
            .await
            == 0
    })
    .await;
    fleet.stop().await;
    ids.sort();
    ids.dedup();
    let mut tx = TenantTx::begin(&fixture.pool(), other).await.unwrap();
    for chunk in ids.chunks(500) {
        let found = harkara_queue::read::jobs(&mut tx, chunk).await.unwrap();
        assert_eq!(
            found.len(),
            chunk.len(),
            "a job of the other tenant is missing"
        );
    }
    drop(tx);
    assert_at_rest(&fixture).await;
}
