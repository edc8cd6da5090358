//! Tests that single jobs are merged into rows and rows are split, while every job keeps its id.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_shared::id::{JobId, TenantId};

use crate::claim::{ScanPosition, ScanStart};
use crate::claimed::ClaimedJob;
use crate::job::{JobState, Lane, NewJob, Unique};
use crate::testing::{Fixture, done, failed, job};
use crate::verdict::RunOutcome;

fn named(payload: usize) -> NewJob {
    NewJob {
        payload: serde_json::value::to_raw_value(&payload).unwrap(),
        ..job()
    }
}

/// The ids of jobs, grouped by the row they were claimed in.
fn rows(claimed: &[ClaimedJob]) -> Vec<Vec<JobId>> {
    let mut rows: BTreeMap<_, Vec<JobId>> = BTreeMap::new();
    for job in claimed {
        rows.entry(job.parcel.key()).or_default().push(job.id);
    }
    rows.into_values().collect()
}

impl Fixture {
    /// Asserts that each id finds its own job, in the state that `state` returns for its index.
    async fn assert_resolve(&self, ids: &[JobId], state: impl Fn(usize) -> JobState) {
        for (index, id) in ids.iter().enumerate() {
            let job = self.job(*id).await;
            assert_eq!((job.id, job.state), (*id, state(index)), "job {index}");
            assert_eq!(job.payload.get(), index.to_string());
        }
    }
}

#[tokio::test]
async fn different_single_jobs_are_not_merged() {
    let mut fixture = Fixture::new().await;
    let different: Vec<NewJob> = vec![
        job(),
        NewJob {
            priority: 6,
            ..job()
        },
        NewJob {
            kind: "test.other".to_owned(),
            ..job()
        },
        NewJob {
            max_attempts: 4,
            ..job()
        },
        NewJob {
            lane: Lane::Named("a".to_owned()),
            ..job()
        },
        NewJob {
            unique: Some(crate::job::Unique {
                key: "a".to_owned(),
                hold: None,
            }),
            ..job()
        },
    ];
    let mut groups: HashMap<JobId, usize> = HashMap::new();
    for _ in 0..2 {
        for (group, one) in different.iter().enumerate() {
            let unique = one.unique.as_ref().map(|unique| crate::job::Unique {
                key: format!("{} {}", unique.key, groups.len()),
                hold: None,
            });
            let id = fixture
                .enqueue(NewJob {
                    unique,
                    ..one.clone()
                })
                .await;
            groups.insert(id, group);
        }
    }
    let first = fixture.tenant;
    fixture.tenant = TenantId::new();
    for _ in 0..2 {
        groups.insert(fixture.enqueue(job()).await, different.len());
    }
    fixture.tenant = first;
    let lease = fixture.open_lease().await;
    let claimed = fixture.claim(lease, 100).await;
    assert_eq!(claimed.len(), groups.len());
    let rows = rows(&claimed);
    assert_eq!(rows.len(), different.len() + 1, "one row each");
    for row in rows {
        assert_eq!(row.len(), 2);
        assert_eq!(groups[&row[0]], groups[&row[1]]);
    }
}

#[tokio::test]
async fn single_jobs_of_different_id_blocks_are_not_merged() {
    let fixture = Fixture::new().await;
    fixture
        .execute("alter sequence queue.parcel_id increment 600")
        .await;
    let mut ids = Vec::new();
    for n in 0..8 {
        ids.push(fixture.enqueue(named(n)).await);
    }
    let lease = fixture.open_lease().await;
    let claimed = fixture.claim(lease, 100).await;
    let rows = rows(&claimed);
    assert!(rows.len() >= 4);
    assert!(rows.iter().any(|row| row.len() > 1), "{rows:?}");
    for row in rows {
        let blocks = row.iter().map(|id| id.as_i64() / 1024 / 1024);
        assert_eq!(blocks.clone().min(), blocks.max());
    }
    fixture.assert_resolve(&ids, |_| JobState::Running).await;
}

#[tokio::test]
async fn jobs_of_an_ordered_lane_are_not_merged() {
    let fixture = Fixture::new().await;
    let ordered = || NewJob {
        lane: Lane::Ordered("a".to_owned()),
        ..job()
    };
    for _ in 0..3 {
        fixture.enqueue(ordered()).await;
    }
    let lease = fixture.open_lease().await;
    assert_eq!(
        fixture.claim(lease, 10).await.len(),
        1,
        "jobs of an ordered lane run one after another"
    );
    assert_eq!(
        fixture
            .count("select count(*) from queue.parcels where n > 1")
            .await,
        0
    );
}

#[tokio::test]
async fn merged_jobs_keep_their_ids_and_times() {
    let fixture = Fixture::new().await;
    let mut ids = Vec::new();
    for n in 0..9 {
        // Some are due after they were enqueued.
        let delay = Duration::from_millis(if n % 4 == 3 { 1 } else { 0 });
        ids.push(fixture.enqueue(NewJob { delay, ..named(n) }).await);
    }
    fixture
        .execute("update queue.parcels set state = 'a' where state = 's'")
        .await;
    let mut times: Vec<(DateTime<Utc>, DateTime<Utc>)> = Vec::new();
    for id in &ids {
        let job = fixture.job(*id).await;
        times.push((job.created_at, job.run_at));
    }
    let lease = fixture.open_lease().await;
    let claimed = fixture.claim(lease, 100).await;
    assert_eq!(rows(&claimed).len(), 1, "merged");
    fixture.assert_resolve(&ids, |_| JobState::Running).await;
    let keeps = async |index: usize| {
        let job = fixture.job(ids[index]).await;
        assert_eq!((job.created_at, job.run_at), times[index], "job {index}");
    };
    for index in 0..ids.len() {
        keeps(index).await;
    }
    // Three leave the row: one fails, one is put back, one succeeds before the others.
    let by_id = |index: usize| {
        claimed
            .iter()
            .find(|job| job.id == ids[index])
            .unwrap()
            .clone()
    };
    let outcomes = vec![
        (by_id(0), failed()),
        (by_id(3), RunOutcome::PutBack),
        (by_id(4), done()),
    ];
    assert_eq!(fixture.settle(outcomes).await, 3);
    let state = |index| match index {
        0 => JobState::Scheduled,
        3 => JobState::Ready,
        4 => JobState::Succeeded,
        _ => JobState::Running,
    };
    fixture.assert_resolve(&ids, state).await;
    for index in 1..ids.len() {
        keeps(index).await;
    }
    // The worker dies; the others are rescued as single jobs.
    fixture.expire(lease).await;
    assert_eq!(fixture.engine.rescue().await.unwrap().jobs, 6);
    let state = |index| match index {
        0 => JobState::Scheduled,
        4 => JobState::Succeeded,
        _ => JobState::Ready,
    };
    fixture.assert_resolve(&ids, state).await;
    for index in 1..ids.len() {
        keeps(index).await;
    }
    assert_eq!(
        fixture.state_and_attempt(ids[3]).await,
        (JobState::Ready, 0)
    );
    assert_eq!(
        fixture.state_and_attempt(ids[5]).await,
        (JobState::Ready, 1)
    );
}

#[tokio::test]
async fn split_row_keeps_every_job() {
    let fixture = Fixture::new().await;
    let ids = fixture.enqueue_all((0..100).map(named).collect()).await;
    let before = fixture.job(ids[0]).await;
    // Some have left the row before it is split, including the first and the last.
    for gone in [0, 6, 7, 8, 50, 99] {
        fixture.cancel(ids[gone]).await;
    }
    let lease = fixture.open_lease().await;
    let mut claimed = Vec::new();
    for most in [7, 1, 1, 20, 30, 100] {
        let piece = fixture.claim(lease, most).await;
        assert!(piece.len() <= usize::try_from(most).unwrap());
        claimed.push(piece);
    }
    let lengths: Vec<usize> = claimed.iter().map(Vec::len).collect();
    assert_eq!(lengths, [7, 1, 1, 20, 30, 35]);
    let is_gone = |index: usize| [0, 6, 7, 8, 50, 99].contains(&index);
    let state = |index| match index {
        _ if is_gone(index) => JobState::Cancelled,
        _ => JobState::Running,
    };
    fixture.assert_resolve(&ids, state).await;
    for id in &ids {
        let job = fixture.job(*id).await;
        assert_eq!(
            (job.created_at, job.run_at),
            (before.created_at, before.run_at)
        );
    }
    // The parts end in different ways.
    let lost = claimed.pop().unwrap();
    for (nth, piece) in claimed.into_iter().enumerate() {
        let outcomes: Vec<_> = piece
            .into_iter()
            .map(|job| {
                (
                    job,
                    if nth % 2 == 0 {
                        done()
                    } else {
                        RunOutcome::PutBack
                    },
                )
            })
            .collect();
        let count = outcomes.len();
        assert_eq!(fixture.settle(outcomes).await, count);
    }
    fixture.expire(lease).await;
    assert_eq!(fixture.engine.rescue().await.unwrap().jobs, 35);
    for (index, id) in ids.iter().enumerate() {
        let (state, attempt) = fixture.state_and_attempt(*id).await;
        if is_gone(index) {
            assert_eq!((state, attempt), (JobState::Cancelled, 0));
        } else if lost.iter().any(|job| job.id == *id) {
            assert_eq!((state, attempt), (JobState::Ready, 1));
        } else {
            assert!(matches!(
                (state, attempt),
                (JobState::Succeeded, 1) | (JobState::Ready, 0)
            ));
        }
    }
    let ready = fixture
        .count("select count(*) from queue.parcels where state = 'a' and n = 1")
        .await;
    assert_eq!(ready, 1 + 20 + 35);
}

#[tokio::test]
async fn job_is_found_by_reading_few_rows_of_a_large_tenant() {
    let fixture = Fixture::new().await;
    let mut ids = Vec::new();
    for n in 0..60 {
        ids.push(fixture.enqueue(named(n)).await);
    }
    let lease = fixture.open_lease().await;
    fixture.claim(lease, 60).await;
    fixture
        .execute(
            "insert into queue.parcels (tenant, id, lane, run_at, queue, kind, priority,
                max_attempts, state, body)
             select p.tenant, p.id + 100000 + g, p.lane, p.run_at, p.queue, p.kind, 5, 3, 'd', p.body
             from queue.parcels p, generate_series(1, 20000) g",
        )
        .await;
    fixture.execute("analyze queue.parcels").await;
    let read = "select coalesce(sum(idx_tup_fetch + seq_tup_read), 0)::int8
        from pg_stat_xact_user_tables where relname = 'parcels'";
    let mut tx = fixture.engine.pool().begin().await.unwrap();
    harkara_shared::database::query("select set_config('app.tenant_id', $1, true)")
        .bind(fixture.tenant.as_uuid().to_string())
        .execute(&mut *tx)
        .await
        .unwrap();
    let scalar = harkara_shared::database::query_scalar::<i64>;
    let before = scalar(read).fetch_one(&mut *tx).await.unwrap();
    for id in [ids[0], ids[30], ids[59]] {
        let found = scalar("select count(*) from queue.find_jobs(array[$1::bigint])")
            .bind(id)
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        assert_eq!(found, 1);
    }
    let after = scalar(read).fetch_one(&mut *tx).await.unwrap();
    assert!(after - before <= 30, "{} rows were read", after - before);
}

#[tokio::test]
async fn manually_retried_job_keeps_its_last_error() {
    let fixture = Fixture::new().await;
    let id = fixture
        .enqueue(NewJob {
            max_attempts: 1,
            ..job()
        })
        .await;
    let lease = fixture.open_lease().await;
    let claimed = fixture.claim(lease, 1).await;
    fixture.settle(vec![(claimed[0].clone(), failed())]).await;
    fixture.retry(id).await;
    fixture
        .enqueue(NewJob {
            max_attempts: 1,
            ..job()
        })
        .await;
    let claimed = fixture.claim(lease, 10).await;
    assert_eq!(claimed.len(), 2);
    let outcomes = claimed.into_iter().map(|job| (job, done())).collect();
    assert_eq!(fixture.settle(outcomes).await, 2);
    assert_eq!(fixture.job(id).await.last_error.unwrap().code, "failed");
}

#[tokio::test]
async fn job_left_over_from_a_merge_of_five_hundred_has_its_own_due_time() {
    let fixture = Fixture::new().await;
    let early = fixture.now().await - Duration::from_secs(3600);
    // A unique key keeps each job in a row of its own.
    let late = |number: usize| NewJob {
        run_at: Some(early),
        unique: Some(Unique {
            key: number.to_string(),
            hold: None,
        }),
        ..job()
    };
    fixture.enqueue_all((0..501).map(late).collect()).await;
    let lease = fixture.open_lease().await;
    let claimed = fixture.claim(lease, 600).await;
    let alone = claimed.iter().find(|job| job.parcel.size == 1).unwrap();
    assert_eq!((rows(&claimed).len(), claimed.len()), (2, 501));
    assert_eq!(fixture.settle(vec![(alone.clone(), failed())]).await, 1);
    let again = fixture.job(alone.id).await;
    assert_eq!(again.state, JobState::Scheduled);
    assert!(again.run_at > fixture.now().await - Duration::from_secs(60));
}

#[tokio::test]
async fn continued_claim_leaves_rows_before_its_position_to_the_next_claim() {
    let fixture = Fixture::new().await;
    let early = harkara_shared::clock::now() - Duration::from_secs(3600);
    let at = |seconds, priority| NewJob {
        run_at: Some(early + Duration::from_secs(seconds)),
        priority,
        ..job()
    };
    let ids = fixture
        .enqueue_all(vec![at(1, 5), at(2, 5), at(3, 5), at(9, 4), at(1, 6)])
        .await;
    let lease = fixture.open_lease().await;
    let position = ScanPosition {
        priority: 5,
        run_at: fixture.job(ids[1]).await.run_at,
    };
    let found: Vec<JobId> = fixture
        .claim_from(lease, 10, ScanStart::At(position))
        .await
        .iter()
        .map(|job| job.id)
        .collect();
    assert_eq!(found, [ids[1], ids[2], ids[4]]);
    let found: Vec<JobId> = fixture
        .claim(lease, 10)
        .await
        .iter()
        .map(|job| job.id)
        .collect();
    assert_eq!(found, [ids[3], ids[0]]);
}
