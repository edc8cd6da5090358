//! Fixtures for the unit tests of this crate: an engine on its own database, and shorthands for leases,
//! claims and settlements.

use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_shared::backoff::{Backoff, Jitter};
use harkara_shared::database::{TenantTx, query, query_scalar};
use harkara_shared::id::{JobId, TenantId, WorkerId};
use harkara_test_database::TestDatabase;
use serde_json::value::RawValue;

use crate::claim::{ClaimCapacity, LaneClaim, LaneRange, ScanStart};
use crate::claimed::{ClaimedJob, ClaimedParcel};
use crate::engine::Engine;
use crate::enqueue::Quota;
use crate::job::{Attempt, Job, JobError, JobState, Lane, NewJob, Trace};
use crate::lease::WorkerInfo;
use crate::read;
use crate::verdict::{RunOutcome, Settlement, Verdict, decide};

/// The queue of all jobs in these tests.
pub(crate) const QUEUE: &str = "default";

/// An engine on its own database, with one tenant.
pub(crate) struct Fixture {
    pub(crate) engine: Engine,
    pub(crate) tenant: TenantId,
    _database: TestDatabase,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let database = TestDatabase::create().await;
        let engine = Engine::new(database.pool(), true);
        Self {
            engine,
            tenant: TenantId::new(),
            _database: database,
        }
    }

    pub(crate) async fn enqueue(&self, job: NewJob) -> JobId {
        let mut tx = self.engine.pool().begin().await.unwrap();
        let answer = self
            .engine
            .enqueue(&mut tx, self.tenant, job, Quota::Skip)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        answer.id()
    }

    /// Enqueues jobs in one call.
    pub(crate) async fn enqueue_all(&self, jobs: Vec<NewJob>) -> Vec<JobId> {
        let mut tx = self.engine.pool().begin().await.unwrap();
        let answers = self
            .engine
            .enqueue_all(&mut tx, self.tenant, jobs, Quota::Skip)
            .await;
        tx.commit().await.unwrap();
        answers.unwrap().iter().map(|answer| answer.id()).collect()
    }

    pub(crate) async fn cancel(&self, id: JobId) {
        let mut tx = self.tx().await;
        self.engine.cancel(&mut tx, id).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub(crate) async fn retry(&self, id: JobId) {
        let mut tx = self.tx().await;
        self.engine.retry(&mut tx, id).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub(crate) async fn open_lease(&self) -> i64 {
        self.engine
            .open_lease(&worker(), Duration::from_secs(60))
            .await
            .unwrap()
    }

    pub(crate) async fn claim(&self, lease: i64, slots: u32) -> Vec<ClaimedJob> {
        self.claim_from(lease, slots, ScanStart::First).await
    }

    pub(crate) async fn claim_from(
        &self,
        lease: i64,
        slots: u32,
        start: ScanStart,
    ) -> Vec<ClaimedJob> {
        let queue = self.engine.interner().queue_number(QUEUE).await.unwrap();
        let all_lanes = LaneRange {
            queue,
            after: 0,
            before: i64::MAX,
        };
        let ready = self
            .engine
            .find_ready_lanes(&[all_lanes], 100)
            .await
            .unwrap();
        let jobs = i32::try_from(slots).unwrap();
        let claims: Vec<LaneClaim> = ready
            .iter()
            .map(|lane| LaneClaim {
                lane: lane.lane,
                jobs,
                max_rows: jobs,
                start,
            })
            .collect();
        let capacity = ClaimCapacity {
            slots,
            prefetch: 0,
            bytes: u32::MAX / 2,
            accepts_lost_jobs: true,
        };
        let batch = self.engine.claim(queue, lease, &claims, capacity).await;
        batch.unwrap().jobs
    }

    pub(crate) async fn expire(&self, lease: i64) {
        query("update queue.leases set expires_at = now() where id = $1")
            .bind(lease)
            .execute(self.engine.pool())
            .await
            .unwrap();
    }

    /// The time of the database's clock.
    pub(crate) async fn now(&self) -> DateTime<Utc> {
        query_scalar("select clock_timestamp()")
            .fetch_one(self.engine.pool())
            .await
            .unwrap()
    }

    async fn tx(&self) -> TenantTx {
        TenantTx::begin(self.engine.pool(), self.tenant)
            .await
            .unwrap()
    }

    pub(crate) async fn job(&self, id: JobId) -> Job {
        read::job(&mut *self.tx().await, id).await.unwrap().unwrap()
    }

    pub(crate) async fn state_and_attempt(&self, id: JobId) -> (JobState, u16) {
        let job = self.job(id).await;
        (job.state, job.attempt)
    }

    pub(crate) async fn attempts(&self, id: JobId) -> Vec<Attempt> {
        read::attempts(&mut *self.tx().await, id)
            .await
            .unwrap()
            .unwrap()
    }

    /// Runs a statement.
    pub(crate) async fn execute(&self, sql: &'static str) {
        query(sql).execute(self.engine.pool()).await.unwrap();
    }

    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        query_scalar(sql)
            .fetch_one(self.engine.pool())
            .await
            .unwrap()
    }

    /// Settles runs with these outcomes and returns how many of them were written.
    pub(crate) async fn settle(&self, outcomes: Vec<(ClaimedJob, RunOutcome)>) -> usize {
        let outcomes: Vec<(ClaimedJob, Settlement)> = outcomes
            .into_iter()
            .map(|(job, outcome)| {
                let settlement = decide(outcome, &job, &mut rand::rng());
                (job, settlement)
            })
            .collect();
        let written = self.engine.settle(&outcomes).await.unwrap();
        let keys = outcomes.iter().map(|(job, _)| job.parcel.key());
        keys.filter(|key| written.contains(key)).count()
    }
}

pub(crate) fn worker() -> WorkerInfo {
    WorkerInfo {
        id: WorkerId::new(),
        host: "test".to_owned(),
        pid: 1,
        version: "0".to_owned(),
        queues: serde_json::json!({}),
    }
}

pub(crate) fn job() -> NewJob {
    NewJob {
        kind: "test.job".to_owned(),
        queue: QUEUE.to_owned(),
        payload: RawValue::NULL.to_owned(),
        priority: 5,
        run_at: None,
        delay: Duration::ZERO,
        expires_at: None,
        max_attempts: 3,
        timeout: Duration::from_secs(60),
        backoff: Backoff {
            jitter: Jitter::None,
            ..Backoff::default()
        },
        unique: None,
        lane: Lane::Default,
        limits: Vec::new(),
        tags: Vec::new(),
        trace: Trace::default(),
    }
}

pub(crate) fn done() -> RunOutcome {
    RunOutcome::Verdict(Verdict::done())
}

pub(crate) fn failed() -> RunOutcome {
    RunOutcome::Verdict(Verdict::retry(JobError::new("failed", "on purpose"), None))
}

/// A parcel with one job that exists in no table.
pub(crate) fn parcel() -> std::sync::Arc<ClaimedParcel> {
    std::sync::Arc::new(ClaimedParcel::test())
}
