//! Explanations of why a job does not run: every reason is produced by real conditions, for packed jobs
//! and for single ones.

mod storm;
mod turns;
mod waits;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_queue::job::{JobState, NewJob};
use harkara_queue::read::{self, Explanation, Reason, ReasonCode};
use harkara_queue::settings::{Change, LaneChange, LimitChange, Rate, TenantChange};
use harkara_queue::{Handler, Verdict};
use harkara_shared::database::{TenantTx, query_scalar};
use harkara_shared::id::{JobId, TenantId};
use tokio::sync::Semaphore;

use crate::support::{Fixture, handler};

pub(super) const HOUR: Duration = Duration::from_secs(3600);

impl Fixture {
    pub(super) async fn explain(&self, id: JobId) -> Explanation {
        let explanation = read::explain(&mut *self.tx().await, id).await.unwrap();
        let explanation = explanation.unwrap();
        assert_invariants(&explanation);
        explanation
    }

    /// The codes of the reasons.
    pub(super) async fn codes(&self, id: JobId) -> Vec<ReasonCode> {
        let explanation = self.explain(id).await;
        explanation
            .reasons
            .iter()
            .map(|reason| reason.code)
            .collect()
    }

    /// The only reason with this code.
    pub(super) async fn reason(&self, id: JobId, code: ReasonCode) -> Reason {
        let explanation = self.explain(id).await;
        let mut found: Vec<Reason> = explanation
            .reasons
            .iter()
            .filter(|reason| reason.code == code)
            .cloned()
            .collect();
        assert_eq!(found.len(), 1, "{code:?} in {explanation:?}");
        found.pop().unwrap()
    }

    pub(super) async fn moment(&self, sql: &'static str) -> Option<DateTime<Utc>> {
        query_scalar(sql).fetch_one(&self.pool()).await.unwrap()
    }

    /// Enqueues jobs, packed or one by one, and returns their ids.
    pub(crate) async fn enqueue_jobs(&self, packed: bool, jobs: Vec<NewJob>) -> Vec<JobId> {
        let mut ids = Vec::new();
        if packed {
            ids.extend(self.enqueue_all(jobs).await.iter().map(|job| job.id()));
        } else {
            for job in jobs {
                ids.push(self.enqueue(job).await.id());
            }
        }
        ids
    }
}

/// Asserts the invariants of every explanation.
pub(super) fn assert_invariants(explanation: &Explanation) {
    let codes: Vec<ReasonCode> = explanation.reasons.iter().map(|one| one.code).collect();
    let rank = |code: &ReasonCode| ReasonCode::ALL.iter().position(|other| other == code);
    assert!(!codes.is_empty(), "{explanation:?}");
    assert!(codes.is_sorted_by_key(rank), "{explanation:?}");
    let has = |code: ReasonCode| codes.contains(&code);
    match explanation.state {
        JobState::Running => assert_eq!(codes, [ReasonCode::Running], "{explanation:?}"),
        state if state.is_final() => assert_eq!(codes, [ReasonCode::Finished], "{explanation:?}"),
        state => {
            assert!(
                !has(ReasonCode::Running) && !has(ReasonCode::Finished),
                "{explanation:?}"
            );
            let waits = state == JobState::Scheduled;
            assert_eq!(has(ReasonCode::Scheduled), waits, "{explanation:?}");
        }
    }
    let is_next = explanation.state == JobState::Ready && codes == [ReasonCode::Behind];
    assert_eq!(explanation.runnable, is_next, "{explanation:?}");
    for reason in &explanation.reasons {
        assert!(
            !reason.detail.is_empty() && !reason.detail.contains('\n'),
            "{reason:?}"
        );
        assert!(
            reason.since.zip(reason.until).is_none_or(|(a, b)| a <= b),
            "{reason:?}"
        );
    }
}

pub(super) fn rate(count: u32, burst: u32) -> LimitChange {
    LimitChange::rate(Rate {
        count,
        per: HOUR,
        burst,
    })
}

pub(super) fn max_running(most: u32) -> LimitChange {
    LimitChange {
        max_running: Change::Set(most),
        ..LimitChange::default()
    }
}

pub(super) fn of_tenant(limit: LimitChange) -> TenantChange {
    TenantChange {
        limit,
        ..TenantChange::default()
    }
}

pub(super) fn of_key(key: &str, limit: LimitChange) -> TenantChange {
    TenantChange {
        limits: [(key.to_owned(), limit)].into(),
        ..TenantChange::default()
    }
}

pub(super) fn of_lane(limit: LimitChange) -> LaneChange {
    LaneChange {
        limit,
        ..LaneChange::default()
    }
}

/// Waits for a permit, then succeeds.
pub(crate) fn waiting_for_permit(leave: &Arc<Semaphore>) -> Arc<dyn Handler> {
    let leave = Arc::clone(leave);
    handler(move |_| {
        let leave = Arc::clone(&leave);
        async move {
            leave.acquire().await.unwrap().forget();
            Verdict::done()
        }
    })
}

/// Jobs of another tenant are not explained, nor is any job outside a tenant's transaction.
#[tokio::test]
async fn foreign_job_is_not_explained() {
    let fixture = Fixture::new().await;
    let id = fixture.enqueue(crate::support::job()).await.id();
    let stranger = TenantId::new();
    fixture
        .enqueue_for(stranger, vec![crate::support::job()])
        .await;
    let mut tx = TenantTx::begin(&fixture.pool(), stranger).await.unwrap();
    assert_eq!(read::explain(&mut tx, id).await.unwrap(), None);
    let unknown_job = JobId::from_i64(1 << 50);
    assert_eq!(read::explain(&mut tx, unknown_job).await.unwrap(), None);
    let mut connection = fixture.pool().acquire().await.unwrap();
    assert_eq!(read::explain(&mut connection, id).await.unwrap(), None);
    assert!(fixture.explain(id).await.reasons.len() == 1);
}
