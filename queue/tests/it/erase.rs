//! Erasure: a tenant goes with all that the engine keeps of it, and nobody else notices.

use std::sync::atomic::{AtomicBool, Ordering};

use harkara_queue::job::{JobState, Lane, LimitUse, NewJob, Unique};
use harkara_queue::settings::{Change, LimitChange, Rate, TenantChange};
use harkara_queue::{Erasure, Verdict};
use harkara_shared::database::{TenantTx, query_scalar};
use harkara_shared::id::{JobId, TenantId};
use tokio_util::sync::CancellationToken;

use crate::fleet::{Fleet, is_at_rest};
use crate::support::{Stand, error, failed, handler, heedful, job, number, numbered, soon, until};

/// Rows in all of the engine's tables that bear the number of a tenant, by table; those without a row are
/// left out.
const LEFT: &str = "select c.table_name || ': ' || n.rows
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

async fn number_of(stand: &Stand, tenant: TenantId) -> i32 {
    query_scalar("select number from queue.tenants where id = $1")
        .bind(tenant)
        .fetch_one(&stand.pool())
        .await
        .unwrap()
}

async fn left_of(stand: &Stand, number: i32) -> Vec<String> {
    query_scalar(LEFT)
        .bind(number)
        .fetch_all(&stand.pool())
        .await
        .unwrap()
}

/// Erases until nothing is left.
async fn erase(stand: &Stand, tenant: TenantId) -> Erasure {
    let mut total = Erasure::default();
    soon("the tenant is erased", async {
        while !total.finished {
            let done = stand.engine.erase_tenant(tenant).await.unwrap();
            total.finished = done.finished;
            total.jobs += done.jobs;
            total.rows += done.rows;
            tokio::task::yield_now().await;
        }
    })
    .await;
    total
}

/// Jobs of every sort: packed, single, ordered, limited, keyed, tagged, to come.
fn every_sort(first: u64) -> Vec<NewJob> {
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

async fn limit(stand: &Stand, tenant: TenantId) {
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
    stand.engine.set_tenant(tenant, &change).await.unwrap();
}

#[tokio::test]
async fn a_tenant_goes_from_every_table_and_another_keeps_all_it_has() {
    let stand = Stand::new().await;
    let other = TenantId::new();
    stand.enqueue_all(every_sort(0)).await;
    stand.enqueue_for(other, every_sort(0)).await;
    limit(&stand, stand.tenant).await;
    limit(&stand, other).await;
    let worker = stand.work(handler(async |run| any_verdict(number(&run))));
    let ready = "select count(*) from queue.parcels where state in ('a', 'r')";
    until("all that is due has run", async || {
        stand.count(ready).await == 0
    })
    .await;
    worker.stop().await;
    for tenant in [stand.tenant, other] {
        stand.enqueue_for(tenant, every_sort(5000)).await;
    }
    stand.engine.fold().await.unwrap();
    let (gone, kept) = (
        number_of(&stand, stand.tenant).await,
        number_of(&stand, other).await,
    );
    let before = left_of(&stand, kept).await;
    let tables = left_of(&stand, gone).await;
    for table in [
        "attempts",
        "gates",
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

    let done = erase(&stand, stand.tenant).await;
    assert!(done.jobs > 640, "{done:?}");
    assert_eq!(left_of(&stand, gone).await, Vec::<String>::new());
    assert_eq!(left_of(&stand, kept).await, before);
    is_at_rest(&stand).await;

    let again = stand.engine.erase_tenant(stand.tenant).await.unwrap();
    let nothing = Erasure {
        finished: true,
        ..Erasure::default()
    };
    assert_eq!(again, nothing);
    assert_eq!(
        stand.engine.erase_tenant(TenantId::new()).await.unwrap(),
        nothing
    );
    assert_eq!(left_of(&stand, kept).await, before);
}

#[tokio::test]
async fn what_runs_is_cancelled_and_waited_for() {
    let stand = Stand::new().await;
    let go_on = CancellationToken::new();
    let may_end = go_on.clone();
    let worker = stand.work(heedful(move |run| {
        let may_end = may_end.clone();
        async move {
            run.cancel.cancelled().await;
            may_end.cancelled().await;
            Verdict::Cancelled
        }
    }));
    let running = stand.enqueue(job()).await.id();
    stand.reaches(running, JobState::Running).await;
    let tenant = number_of(&stand, stand.tenant).await;
    let at = stand.now().await + chrono::Duration::days(1);
    stand
        .enqueue(NewJob {
            run_at: Some(at),
            ..job()
        })
        .await;

    for jobs in [1, 0] {
        let done = stand.engine.erase_tenant(stand.tenant).await.unwrap();
        assert_eq!(
            (done.finished, done.running, done.jobs),
            (false, 1, jobs),
            "the waiting one goes, the running one stays"
        );
    }
    go_on.cancel();
    let running = "select count(*) from queue.parcels where state = 'r'";
    until("the run ends", async || stand.count(running).await == 0).await;
    erase(&stand, stand.tenant).await;
    assert_eq!(left_of(&stand, tenant).await, Vec::<String>::new());
    worker.stop().await;
    is_at_rest(&stand).await;
}

#[tokio::test]
async fn the_jobs_of_a_dead_worker_go_when_they_have_been_taken_back() {
    let stand = Stand::new().await;
    let worker = stand.work(handler(async |run| {
        crate::fleet::for_ever(&run).await;
        Verdict::done()
    }));
    let id = stand.enqueue(job()).await.id();
    stand.reaches(id, JobState::Running).await;
    crate::fleet::die(&stand, worker).await;
    let done = stand.engine.erase_tenant(stand.tenant).await.unwrap();
    assert_eq!((done.finished, done.running), (false, 1));
    stand.engine.rescue().await.unwrap();
    assert_eq!(erase(&stand, stand.tenant).await.jobs, 1);
    is_at_rest(&stand).await;
}

#[tokio::test]
async fn nothing_is_added_to_a_tenant_that_is_being_erased() {
    let stand = Stand::new().await;
    stand.enqueue(job()).await;
    // Somebody enqueues, and takes a while about it.
    let mut late = stand.tx().await;
    stand
        .engine
        .enqueue_all(&mut late, stand.tenant, vec![job()])
        .await
        .unwrap();
    let done = stand.engine.erase_tenant(stand.tenant).await.unwrap();
    assert_eq!((done.finished, done.jobs), (false, 1));
    // Whoever comes now finds no such tenant.
    let mut tx = stand.tx().await;
    let refused = stand
        .engine
        .enqueue_all(&mut tx, stand.tenant, vec![job()])
        .await;
    assert!(refused.is_err());
    drop(tx);
    late.commit().await.unwrap();
    assert_eq!(erase(&stand, stand.tenant).await.jobs, 1);
    assert_eq!(stand.count("select count(*) from queue.parcels").await, 0);
    stand.assert_counts_agree().await;
}

#[tokio::test]
async fn more_than_a_batch_is_erased_in_one_call() {
    let stand = Stand::new().await;
    let other = TenantId::new();
    for tenant in [stand.tenant, other] {
        let jobs = (0..2500).map(|n| NewJob {
            tags: vec!["red".to_owned()],
            lane: Lane::Named(n.to_string()),
            ..numbered(n)
        });
        stand.enqueue_for(tenant, jobs.collect()).await;
    }
    stand
        .execute(
            "insert into queue.attempts (job_id, tenant, started_at, finished_at, outcome)
             select g, t.number, now(), now() - g * interval '1 minute', 'lost'
             from queue.tenants t, generate_series(1, 2500) g",
        )
        .await;
    assert_eq!(erase(&stand, stand.tenant).await.jobs, 2500);
    for (table, rows) in [
        ("select count(*) from queue.attempts", 2500),
        ("select count(*) from queue.lanes", 2500),
        ("select count(*) from queue.labels", 2500),
        ("select count(*) from queue.parcels", 2500),
    ] {
        assert_eq!(stand.count(table).await, rows, "{table}");
    }
    stand.assert_counts_agree().await;
}

/// The tenant's jobs fail and are settled while it is erased; another's run on.
#[tokio::test]
async fn a_tenant_is_erased_in_the_midst_of_all_others_work() {
    let stand = Stand::new().await;
    let other = TenantId::new();
    let work = handler(async |run| match run.job.attempt {
        1 => any_verdict(number(&run)),
        _ => Verdict::done(),
    });
    let fleet = Fleet::start(&stand, 2, 16, &work);
    let over = AtomicBool::new(false);
    let others = async {
        let mut ids: Vec<JobId> = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let answers = stand.enqueue_for(other, every_sort(0)).await;
            ids.extend(answers.iter().map(|answer| answer.id()));
            let most = "select count(*) from queue.parcels where state = 'a'";
            until("there is room", async || stand.count(most).await < 300).await;
        }
        ids
    };
    let erased = async {
        for round in 0..4 {
            let tenant = TenantId::new();
            stand.enqueue_for(tenant, every_sort(round)).await;
            limit(&stand, tenant).await;
            let gone = number_of(&stand, tenant).await;
            until("some of its jobs have run", async || {
                let mut tx = TenantTx::begin(&stand.pool(), tenant).await.unwrap();
                let run: i64 = query_scalar("select count(*) from queue.attempts")
                    .fetch_one(&mut *tx)
                    .await
                    .unwrap();
                run > 0
            })
            .await;
            erase(&stand, tenant).await;
            // What workers remember of its share may come in once more: a number, no more.
            let mut left = left_of(&stand, gone).await;
            left.retain(|line| !line.starts_with("shares"));
            assert_eq!(left, Vec::<String>::new());
        }
        over.store(true, Ordering::Relaxed);
    };
    let (mut ids, ()) = tokio::join!(others, erased);
    until("the other's jobs have ended", async || {
        stand
            .count("select count(*) from queue.parcels where state in ('a', 'r')")
            .await
            == 0
    })
    .await;
    fleet.stop().await;
    ids.sort();
    ids.dedup();
    let mut tx = TenantTx::begin(&stand.pool(), other).await.unwrap();
    for chunk in ids.chunks(500) {
        let found = harkara_queue::read::jobs(&mut tx, chunk).await.unwrap();
        assert_eq!(found.len(), chunk.len(), "a job of the other is missing");
    }
    drop(tx);
    is_at_rest(&stand).await;
}
