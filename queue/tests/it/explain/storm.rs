//! Explanations of jobs while workers claim and settle them.

use std::sync::Arc;
use std::time::Duration;

use harkara_queue::job::{JobState, Lane, NewJob};
use harkara_queue::read::{self, ReasonCode};
use harkara_queue::settings::LaneChange;
use harkara_queue::{Handler, Verdict};
use harkara_shared::database::{query, query_as};
use harkara_shared::id::JobId;
use rand::RngExt;
use rand::seq::IndexedRandom;
use tokio::sync::Semaphore;

use super::{assert_invariants, max_running, of_lane};
use crate::lost_workers::{Fleet, assert_at_rest, named, ordered};
use crate::support::{Fixture, QUEUE, error, failed, handler, numbered};

/// Facts about a job from the rows of the same snapshot: whether its ordered lane has another head, how many
/// jobs of its lane run, and how many ready jobs are ahead of it.
const JOB_FACTS: &str = "select
        l.strict,
        exists (
            select from queue.parcels h
            where h.tenant = p.tenant and h.id = l.head and h.part = 0
              and h.state in ('s', 'a', 'r') and h.id <> p.id
        ),
        (
            select coalesce(sum(r.n - coalesce(cardinality(r.gone), 0) - coalesce(cardinality(r.acked), 0)), 0)
            from queue.parcels r where r.lane = p.lane and r.state = 'r'
        )::int8,
        (
            select coalesce(sum(a.n - coalesce(cardinality(a.gone), 0)), 0)
            from queue.parcels a
            where a.lane = p.lane and a.state = 'a' and not a.lost
              and (a.priority, a.run_at, a.id, a.lo) < (p.priority, p.run_at, p.id, p.lo)
        )::int8 + (
            select count(*) from generate_series(1, f.member - 1) m
            where m <> all (coalesce(p.gone, '{}'))
        )
    from queue.find_jobs(array[$1::int8]) f
    join queue.parcels p on p.tenant = f.tenant and p.id = f.id and p.part = f.part
    join queue.lanes l on l.id = p.lane";

/// Waits for a permit, then ends with a random verdict.
fn random_verdict_with_permit(permits: &Arc<Semaphore>) -> Arc<dyn Handler> {
    let permits = Arc::clone(permits);
    handler(move |_| {
        let permits = Arc::clone(&permits);
        async move {
            permits.acquire().await.unwrap().forget();
            match rand::rng().random_range(0..12) {
                0 => failed("down"),
                1 => Verdict::Snooze {
                    wait: Duration::from_millis(5),
                    reason: error("early"),
                },
                2 => Verdict::Dead {
                    error: error("gone"),
                },
                _ => Verdict::done(),
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn explanations_agree_with_the_rows_of_their_snapshot_under_load() {
    let fixture = Fixture::new().await;
    let mut jobs: Vec<NewJob> = (0..300).map(numbered).collect();
    jobs.extend((300..340).map(|n| ordered("one", n)));
    jobs.extend((400..460).map(|n| named("two", n)));
    let mut ids: Vec<JobId> = fixture.enqueue_jobs(true, jobs).await;
    ids.extend(
        fixture
            .enqueue_jobs(false, (500..560).map(numbered).collect())
            .await,
    );
    let two = Lane::Named("two".to_owned());
    let change: LaneChange = of_lane(max_running(2));
    fixture
        .engine
        .set_lane(fixture.tenant, QUEUE, &two, &change)
        .await
        .unwrap();
    // Jobs finish no faster than they are explained.
    let permits = Arc::new(Semaphore::new(0));
    let fleet = Fleet::start(&fixture, 2, 4, &random_verdict_with_permit(&permits));
    let mut seen: Vec<JobState> = Vec::new();
    let mut explained = 0;
    while fixture.jobs("sar").await > 0 {
        for _ in 0..20 {
            permits.add_permits(rand::rng().random_range(0..4));
            let id = *ids.choose(&mut rand::rng()).unwrap();
            let mut connection = fixture.pool().acquire().await.unwrap();
            for sql in [
                "begin isolation level repeatable read",
                "select set_config('app.tenant_id', $1, true)",
            ] {
                let started = query(sql);
                let started = match sql.contains("$1") {
                    true => started.bind(fixture.tenant.as_uuid().to_string()),
                    false => started,
                };
                started.execute(&mut *connection).await.unwrap();
            }
            let explanation = read::explain(&mut connection, id).await.unwrap().unwrap();
            assert_invariants(&explanation);
            let job = read::job(&mut connection, id).await.unwrap().unwrap();
            let (strict, headed, running, before): (bool, bool, i64, i64) = query_as(JOB_FACTS)
                .bind(id)
                .fetch_one(&mut *connection)
                .await
                .unwrap();
            query("rollback").execute(&mut *connection).await.unwrap();
            explained += 1;
            seen.push(job.state);
            assert_eq!(explanation.state, job.state);
            if job.state != JobState::Ready {
                continue;
            }
            let has = |code| explanation.reasons.iter().any(|one| one.code == code);
            let whole = format!("{explanation:?}, but {running} jobs run and {before} are ahead");
            if strict {
                let goes_first = headed || before > 0 && running == 0;
                assert!(!headed || has(ReasonCode::OrderingHead), "{whole}");
                assert!(goes_first || !has(ReasonCode::OrderingHead), "{whole}");
            } else {
                let ahead = explanation.reasons.iter().find_map(|one| one.ahead);
                assert_eq!(i64::from(ahead.unwrap_or(0)), before, "{whole}");
            }
            // Only one lane has a limit.
            let full = explanation
                .reasons
                .iter()
                .any(|one| one.detail.contains("2 of 2 run"));
            let busy = explanation
                .reasons
                .iter()
                .any(|one| one.detail.contains("of the live workers"));
            assert_eq!(has(ReasonCode::ConcurrencyLimit), full || busy, "{whole}");
            assert!(!full || running == 2, "{whole}");
        }
    }
    fleet.stop().await;
    assert!(explained > 100, "{explained}");
    for state in [JobState::Ready, JobState::Running, JobState::Succeeded] {
        assert!(seen.contains(&state), "{state:?} was never explained");
    }
    assert_at_rest(&fixture).await;
}
