//! Test helpers for job kinds: run a handler, drain a queue, inspect enqueued jobs, set the clock.
//!
//! `docs/KINDS.md` describes how to write a kind and test it with these helpers.
//!
//! ```
//! use harkara_platform::kinds::http_request::HttpRequest;
//! use harkara_kit::{Kit, Receiver, Reply};
//! use serde_json::json;
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let kit = Kit::start().await;
//! let receiver = Receiver::start(|_| Reply::status(503)).await;
//!
//! // One run of the handler. Nothing is written.
//! let performed = kit
//!     .perform::<HttpRequest>(json!({"url": receiver.url}))
//!     .attempt(3)
//!     .await;
//! performed.retried("http_503");
//!
//! // The whole path: enqueue, claim, run, settle, and again after the backoff.
//! let id = kit.enqueue::<HttpRequest>(json!({"url": receiver.url})).await;
//! assert_eq!(kit.drain("http").await.retried, [id]);
//! let due = kit.job(id).await.run_at;
//! kit.set_clock(due).await;
//! assert_eq!(kit.drain("http").await.retried, [id]);
//! # });
//! ```

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "used by tests only, which should stop at the first unexpected result"
)]

mod clock;
mod drain;
mod enqueued;
mod handler;
mod perform;
mod receiver;

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use harkara_jobs::catalogue::Kind;
use harkara_kind::{JobKind, Services};
use harkara_queue::job::{Attempt, Job, NewJob};
use harkara_queue::{ChangeOutcome, Engine, Quota, read};
use harkara_shared::clock::testing::TestClock;
use harkara_shared::database::{TenantTx, query};
use harkara_shared::egress::Egress;
use harkara_shared::id::{JobId, TenantId};
use harkara_shared::vault::MasterKeys;
use harkara_test_database::TestDatabase;
use harkara_webhooks::DeliveryBatcher;
use serde::Serialize;

pub use drain::{Drain, Drained};
pub use enqueued::Waiting;
pub use perform::{Done, Failure, Perform, Performed};
pub use receiver::{Hit, Receiver, Reply};
pub use tokio_util::sync::CancellationToken;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A platform for one test, without processes: a private database whose clock is stopped until
/// it is set, a tenant, and the services of handlers.
///
/// Every method panics with the reason when it fails.
#[derive(Debug)]
pub struct Kit {
    /// The tenant of all jobs.
    pub tenant: TenantId,
    /// The services passed to handlers. Requests to loopback addresses (127.0.0.0/8) are allowed.
    pub services: Services,
    /// The delivery batcher passed to webhook handlers.
    pub deliveries: DeliveryBatcher,
    kinds: Vec<Kind>,
    clock: TestClock,
    database: TestDatabase,
}

impl Kit {
    /// A platform with the kinds of the catalogue.
    ///
    /// # Panics
    /// When the database cannot be created.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A platform with further kinds, such as one that is not in the catalogue yet:
    /// `Kit::start_with(&[Kind::of::<ImageResize>()])`.
    ///
    /// # Panics
    /// When the database cannot be created.
    pub async fn start_with(kinds: &[Kind]) -> Self {
        let database = TestDatabase::create().await;
        let clock = clock::set_up(&database.url()).await;
        let pool = database.pool();
        let keys = MasterKeys::parse(&MasterKeys::generate()).expect("a master key");
        let loopback = "127.0.0.0/8".parse().expect("a network");
        let engine = Engine::new(pool.clone(), false);
        // Slots for deliveries; late retries can use half of them.
        let slots = 2;
        let deliveries = DeliveryBatcher::new(pool.clone(), engine.clone(), keys.clone(), slots);
        let services = Services {
            engine,
            egress: Egress::new(vec![loopback]).expect("an HTTP client"),
            pool,
            keys,
            blobs: None,
        };
        let mut kit = Self {
            tenant: TenantId::new(),
            services,
            deliveries,
            kinds: kinds.to_vec(),
            clock,
            database,
        };
        kit.tenant = kit.new_tenant("acme").await;
        kit
    }

    /// Creates another tenant.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn new_tenant(&self, slug: &str) -> TenantId {
        let id = TenantId::new();
        query(include_str!("sql/create_tenant.sql"))
            .bind(id)
            .bind(slug)
            .execute(&self.services.pool)
            .await
            .expect("a tenant");
        id
    }

    /// The database, for queries that no helper covers.
    #[must_use]
    pub fn database(&self) -> &TestDatabase {
        &self.database
    }

    /// Begins a transaction of the tenant.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn tx(&self) -> TenantTx {
        TenantTx::begin(&self.services.pool, self.tenant)
            .await
            .expect("a transaction")
    }

    /// Runs the handler of a kind once, as a worker does: with the decoding and validation of its
    /// payload, and the layer that turns a panic, a timeout and a cancel into verdicts. The job is
    /// not stored, and nothing is written except by the handler itself.
    ///
    /// ```
    /// # use harkara_platform::kinds::http_request::HttpRequest;
    /// # use harkara_kit::Kit;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let kit = Kit::start().await;
    /// let inside = serde_json::json!({"url": "http://169.254.169.254/latest"});
    /// let failure = kit.perform::<HttpRequest>(inside).await.dead("egress_refused");
    /// assert!(failure.wait.is_none());
    /// # });
    /// ```
    #[must_use = "nothing runs until it is awaited"]
    pub fn perform<K: JobKind>(&self, args: impl Serialize) -> Perform<'_>
    where
        harkara_jobs::Services: AsRef<K::Services>,
    {
        Perform::new(self, Kind::of::<K>(), self.draft::<K>(args))
    }

    /// Enqueues a job for the tenant, with the defaults of its kind unless changed first, and
    /// returns its id.
    ///
    /// # Panics
    /// When the kind's check rejects the payload, so that the API would refuse the job.
    #[must_use = "nothing is enqueued until it is awaited"]
    #[track_caller]
    pub fn enqueue<K: JobKind>(&self, args: impl Serialize) -> Enqueue<'_> {
        let job = self.draft::<K>(args);
        let faults = harkara_kind::check::<K>(&job.payload);
        assert!(
            faults.is_empty(),
            "{}: the API would refuse {}: {faults:#?}",
            K::KIND,
            job.payload
        );
        Enqueue { kit: self, job }
    }

    /// Claims, runs and settles the ready jobs of a queue until none is ready. Jobs
    /// that wait for their due time, a backoff or a limit stay, because the clock is stopped.
    ///
    /// Follow-up jobs and retries without a wait are run too. Jobs of dead workers are rescued
    /// first.
    #[must_use = "nothing is drained until it is awaited"]
    pub fn drain(&self, queue: &str) -> Drain<'_> {
        Drain::new(self, queue)
    }

    /// Reads a job.
    ///
    /// # Panics
    /// When the tenant has no such job.
    pub async fn job(&self, id: JobId) -> Job {
        read::job(&mut *self.tx().await, id)
            .await
            .expect("an answer")
            .unwrap_or_else(|| panic!("job {id} does not exist"))
    }

    /// The finished attempts of a job, oldest first.
    ///
    /// # Panics
    /// When the tenant has no such job.
    pub async fn attempts(&self, id: JobId) -> Vec<Attempt> {
        read::attempts(&mut *self.tx().await, id)
            .await
            .expect("an answer")
            .unwrap_or_else(|| panic!("job {id} does not exist"))
    }

    /// Cancels a job as a user does; a job that runs in a drain is notified immediately.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn cancel(&self, id: JobId) -> ChangeOutcome {
        let mut tx = self.tx().await;
        let engine = &self.services.engine;
        let changed = engine.cancel(&mut tx, id).await.expect("a cancel");
        tx.commit().await.expect("a commit");
        changed
    }

    fn draft<K: JobKind>(&self, args: impl Serialize) -> NewJob {
        let payload = serde_json::value::to_raw_value(&args).expect("a payload");
        K::job(payload)
    }
}

/// A job that is enqueued when it is awaited.
#[derive(Debug)]
pub struct Enqueue<'a> {
    kit: &'a Kit,
    job: NewJob,
}

impl Enqueue<'_> {
    /// Delays the job.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.job.delay = delay;
        self
    }

    /// Changes other fields: queue, lane, unique key, tags, limits.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut NewJob)) -> Self {
        change(&mut self.job);
        self
    }
}

impl<'a> IntoFuture for Enqueue<'a> {
    type Output = JobId;
    type IntoFuture = Boxed<'a, JobId>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { kit, job } = self;
            let mut tx = kit.tx().await;
            let engine = &kit.services.engine;
            let answer = engine.enqueue(&mut tx, kit.tenant, job, Quota::Skip).await;
            let id = answer.expect("an enqueued job").id();
            tx.commit().await.expect("a commit");
            id
        })
    }
}
