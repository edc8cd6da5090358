//! The bulk scan returns all matching jobs in steps: each once, oldest first, in every storage form.

use std::time::Duration;

use harkara_queue::BulkSelection;
use harkara_queue::job::JobState;
use harkara_queue::read::JobFilter;
use harkara_shared::database::query;
use harkara_shared::id::JobId;
use serde_json::json;

use crate::packed::{BLOCK, at, job_id, left, merged, moment, row};
use crate::support::Fixture;

/// Greater than every job id.
const END: i64 = i64::MAX;

/// The jobs of a selection, scanned in steps of at most `most` jobs.
async fn scanned(
    fixture: &Fixture,
    selection: &BulkSelection,
    before: i64,
    most: usize,
) -> Vec<i64> {
    let mut tx = fixture.tx().await;
    let mut found: Vec<i64> = Vec::new();
    let mut after = JobId::from_i64(-1);
    while after.as_i64() < before - 1 {
        let step = selection
            .next_step(&mut tx, fixture.tenant, after, job_id(before), most)
            .await
            .unwrap();
        assert!(
            step.upto.as_i64() > after.as_i64(),
            "a step must make progress"
        );
        assert!(step.jobs.len() <= most);
        found.extend(step.jobs.iter().map(|job| job.as_i64()));
        after = step.upto;
    }
    assert!(found.is_sorted_by(|one, next| one < next), "{found:?}");
    found
}

fn of(states: &[JobState]) -> BulkSelection {
    BulkSelection {
        filter: JobFilter::default(),
        states: states.to_vec(),
    }
}

/// A fixture with rows in every storage form.
async fn with_mixed_rows() -> Fixture {
    let fixture = Fixture::new().await;
    let edge = BLOCK * 2 - 1;
    fixture
        .put(&[
            row(3, 0, 0, 4, "c", json!({"gone": [2], "kind": 2})),
            left(at(3, 1), "x", json!({"error_code": "e"})),
            row(4, 0, 0, 3, "a", json!({})),
            row(4, 4, 3, 2, "s", json!({})),
            merged(&[at(5, 0), at(7, 0), at(900, 0)], "d", json!({"gone": [2]})),
            row(6, 0, 0, 2, "x", json!({"created_at": moment(5)})),
            left(at(7, 0), "x", json!({"queue": 2})),
            merged(&[at(8, 0), at(9, 0), at(10, 0)], "r", json!({"acked": [2]})),
            row(edge, 0, 0, 2, "d", json!({})),
            row(edge + 1, 0, 0, 1, "c", json!({})),
        ])
        .await;
    let others = harkara_shared::id::TenantId::new();
    fixture
        .put_for(others, &[row(11, 0, 0, 9, "x", json!({}))])
        .await;
    fixture
}

#[tokio::test]
async fn bulk_scan_finds_every_listed_job_in_steps_of_any_size() {
    let fixture = with_mixed_rows().await;
    let all = fixture.all().await;
    assert!(all.len() > 18);
    let mut choices: Vec<Vec<JobState>> = JobState::ALL.iter().map(|state| vec![*state]).collect();
    choices.push(vec![JobState::Dead, JobState::Cancelled]);
    choices.push(vec![
        JobState::Scheduled,
        JobState::Ready,
        JobState::Running,
    ]);
    choices.push(vec![
        JobState::Succeeded,
        JobState::Dead,
        JobState::Cancelled,
    ]);
    choices.push(JobState::ALL.to_vec());
    for states in choices {
        let expected: Vec<i64> = all
            .iter()
            .filter(|(_, state)| states.contains(state))
            .map(|(job, _)| *job)
            .collect();
        for most in [1, 2, 3, 7, 1000] {
            let found = scanned(&fixture, &of(&states), END, most).await;
            assert_eq!(found, expected, "{states:?}, steps of {most}");
        }
        let before = at(6, 1);
        let found = scanned(&fixture, &of(&states), before, 2).await;
        let older: Vec<i64> = expected.into_iter().filter(|job| *job < before).collect();
        assert_eq!(found, older, "{states:?} before a member");
    }
}

#[tokio::test]
async fn bulk_scan_filter_excludes_jobs_that_do_not_match() {
    let fixture = with_mixed_rows().await;
    for job in [at(3, 1), at(4, 0), at(6, 0)] {
        query(
            "insert into queue.labels (tenant, name, value, job_id)
             select number, 'tag', 'red', $1 from queue.tenants t
             where exists (select from queue.parcels p where p.tenant = t.number and p.id = 3)",
        )
        .bind(job)
        .execute(&fixture.pool())
        .await
        .unwrap();
    }
    let some = |word: &str| Some(word.to_owned());
    let none = JobFilter::default;
    let cases = [
        (
            JobFilter {
                error_code: some("e"),
                ..none()
            },
            vec![at(3, 1)],
        ),
        (
            JobFilter {
                queue: some("other"),
                ..none()
            },
            vec![at(7, 0)],
        ),
        (
            JobFilter {
                kind: some("no.such"),
                ..none()
            },
            vec![],
        ),
        (
            JobFilter {
                tag: some("red"),
                ..none()
            },
            vec![at(3, 1), at(6, 0)],
        ),
        (
            JobFilter {
                tag: some("blue"),
                ..none()
            },
            vec![],
        ),
        (
            JobFilter {
                created_before: Some(moment(6)),
                ..none()
            },
            vec![at(6, 0), at(6, 1)],
        ),
    ];
    for (filter, expected) in cases {
        let selection = BulkSelection {
            filter,
            states: vec![JobState::Dead, JobState::Cancelled],
        };
        for most in [1, 100] {
            let found = scanned(&fixture, &selection, END, most).await;
            assert_eq!(found, expected, "{selection:?}");
        }
        let mut tx = fixture.tx().await;
        let count = selection
            .count(
                &mut tx,
                fixture.tenant,
                job_id(END),
                Duration::from_secs(20),
            )
            .await
            .unwrap();
        assert_eq!(count, u64::try_from(expected.len()).ok());
    }
}

#[tokio::test]
async fn bulk_count_adds_counters_and_changes_not_rolled_up_yet() {
    let fixture = with_mixed_rows().await;
    for written in [
        "insert into queue.tallies (tenant, queue, kind, dead, ready)
         select number, 1, 1, 40, 7 from queue.tenants",
        "insert into queue.deltas (tenant, queue, kind, dead) select number, 1, 2, 2 from queue.tenants",
        "update queue.rollup_state set last_snapshot = pg_current_snapshot()",
        "insert into queue.deltas (tenant, queue, kind, dead) select number, 1, 1, -1 from queue.tenants",
    ] {
        fixture.execute(written).await;
    }
    let count = async |states: &[JobState], kind: Option<&str>| {
        let mut selection = of(states);
        selection.filter.kind = kind.map(str::to_owned);
        let mut tx = fixture.tx().await;
        let timeout = Duration::from_secs(20);
        selection
            .count(&mut tx, fixture.tenant, job_id(END), timeout)
            .await
            .unwrap()
    };
    // Rows that existed at the rollup are part of the counters.
    assert_eq!(count(&[JobState::Dead], None).await, Some(39));
    assert_eq!(
        count(&[JobState::Dead, JobState::Ready], None).await,
        Some(46)
    );
    assert_eq!(count(&[JobState::Dead], Some("test.other")).await, Some(0));
    // Cancelled jobs have no counter and are counted row by row.
    let both = [JobState::Dead, JobState::Cancelled];
    assert_eq!(count(&both, None).await, Some(4 + 4));
    let mut tx = fixture.tx().await;
    let hurried = of(&both)
        .count(&mut tx, fixture.tenant, job_id(END), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(hurried, None, "the count must respect its timeout");
}
