//! What a desk counts.

use std::sync::Arc;

use harkara_shared::config::QueueConcurrency;
use harkara_shared::id::TenantId;
use sqlx::postgres::PgPoolOptions;

use super::*;
use crate::claim::Parcel;
use crate::envelope::Envelope;
use crate::testing::{QUEUE, done, job, worker};

/// A desk with eight places and no database.
fn desk() -> (Desk, DeskEnds) {
    let pool = PgPoolOptions::new()
        .connect_lazy("postgres://nobody@127.0.0.1:1/nothing")
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
    let (desk, ends) = Desk::new(Engine::new(pool, false), &options, Duration::from_secs(1));
    desk.take_lease(1);
    (desk, ends)
}

/// A job under which a worker has died.
fn lost() -> Claimed {
    let mut parcel = Parcel::test();
    parcel.lost = true;
    Claimed {
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
async fn a_job_under_which_a_worker_died_is_alone_until_its_ending_is_written() {
    let (desk, _ends) = desk();
    assert!(desk.may_take_lost());
    desk.hold(0, vec![lost()]);
    assert!(!desk.may_take_lost());
    // It has ended well, but if the worker dies now it counts as lost once more.
    desk.end(lost(), Some(done()), Some(Duration::from_millis(1)));
    assert!(!desk.may_take_lost());
    assert!(
        desk.room()
            .iter()
            .all(|room| room.places == 8 && !room.lost)
    );
    desk.written(std::iter::once(&lost()));
    assert!(desk.may_take_lost());
}

#[tokio::test]
async fn a_run_whose_ending_does_not_count_makes_way_at_once() {
    let (desk, _ends) = desk();
    desk.hold(0, vec![lost()]);
    desk.end(lost(), None, None);
    assert!(desk.may_take_lost());
    assert!(desk.tokens().is_empty());
}
