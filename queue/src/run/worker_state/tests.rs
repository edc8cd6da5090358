//! Tests when a worker may claim lost jobs.

use std::sync::Arc;

use harkara_shared::config::QueueConcurrency;
use harkara_shared::id::TenantId;
use sqlx::postgres::PgPoolOptions;

use super::*;
use crate::claimed::ClaimedParcel;
use crate::envelope::Envelope;
use crate::testing::{QUEUE, done, job, worker};

/// The state of a worker with eight slots and no database.
fn worker_state() -> (WorkerState, WorkerChannels) {
    let pool = PgPoolOptions::new()
        .connect_lazy("postgres://unused@127.0.0.1:1/nothing")
        .unwrap();
    let options = WorkerOptions {
        info: worker(),
        queues: vec![QueueConcurrency {
            queue: QUEUE.to_owned(),
            concurrency: 8,
        }],
        lease: Duration::from_secs(60),
        drain: Duration::from_secs(60),
        memory: 64 << 20,
        listen_url: None,
    };
    let (state, channels) =
        WorkerState::new(Engine::new(pool, false), &options, Duration::from_secs(1));
    state.set_lease(1);
    (state, channels)
}

/// A job that was held by a worker whose lease expired.
fn lost_job() -> ClaimedJob {
    let mut parcel = ClaimedParcel::test();
    parcel.lost = true;
    ClaimedJob {
        id: JobId::from_i64(1024),
        tenant: TenantId::new(),
        kind: "test.job".into(),
        attempt: 2,
        max_attempts: 2,
        run_at: chrono::DateTime::UNIX_EPOCH,
        started_at: chrono::DateTime::UNIX_EPOCH,
        deferrals: 0,
        parcel: Arc::new(parcel),
        member: 1,
        body: Ok(Envelope::of(&job()).into()),
    }
}

#[tokio::test]
async fn lost_job_is_held_alone_until_its_outcome_is_written() {
    let (state, _channels) = worker_state();
    assert!(state.may_claim_lost_job());
    state.hold(0, vec![lost_job()]);
    assert!(!state.may_claim_lost_job());
    // The run succeeded, but if the worker dies now, the job is lost once more.
    state.finish_run(lost_job(), Some(done()), Some(Duration::from_millis(1)));
    assert!(!state.may_claim_lost_job());
    assert!(
        state
            .capacities()
            .iter()
            .all(|capacity| capacity.slots == 8 && !capacity.accepts_lost_jobs)
    );
    state.record_written_outcomes(std::iter::once(&lost_job()));
    assert!(state.may_claim_lost_job());
}

#[tokio::test]
async fn lost_job_without_an_outcome_is_released_at_once() {
    let (state, _channels) = worker_state();
    state.hold(0, vec![lost_job()]);
    state.finish_run(lost_job(), None, None);
    assert!(state.may_claim_lost_job());
    assert!(state.known_tokens().is_empty());
}
