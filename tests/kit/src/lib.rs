//! Test helpers for kinds of job: run one, drain a queue, see what was enqueued, set the clock.
//!
//! `docs/KINDS.md` tells how to write a kind and test it with these.
//!
//! ```
//! use harkara_jobs::kinds::http_request::HttpRequest;
//! use harkara_kit::{Kit, Receiver, Reply};
//! use serde_json::json;
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let kit = Kit::start().await;
//! let receiver = Receiver::start(|_| Reply::status(503)).await;
//!
//! // One run: what does the handler say? Nothing is written.
//! let performed = kit
//!     .perform::<HttpRequest>(json!({"url": receiver.url}))
//!     .attempt(3)
//!     .await;
//! performed.retried("http_503");
//!
//! // The whole line: enqueue, claim, run, settle, and again when the backoff is over.
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
    reason = "used by tests only, where stopping at the first surprise is the aim"
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

use harkara_jobs::Services;
use harkara_jobs::catalogue::{JobKind, Kind};
use harkara_jobs::webhook::Clerk;
use harkara_queue::job::{Attempt, Job, NewJob};
use harkara_queue::{ChangeOutcome, Engine, Quota, read};
use harkara_shared::clock::testing::TestClock;
use harkara_shared::database::{TenantTx, query};
use harkara_shared::egress::Egress;
use harkara_shared::id::{JobId, TenantId};
use harkara_shared::vault::MasterKeys;
use harkara_test_database::TestDatabase;
use serde::Serialize;

pub use drain::{Drain, Drained};
pub use enqueued::Waiting;
pub use perform::{Done, Perform, Performed, Told};
pub use receiver::{Hit, Receiver, Reply};
pub use tokio_util::sync::CancellationToken;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A platform for one test, without processes: a database of its own whose clock stands still until
/// it is set, a tenant, and what handlers work with.
///
/// Every method panics when it cannot do what it says, with the reason.
#[derive(Debug)]
pub struct Kit {
    /// The tenant whose jobs these are.
    pub tenant: TenantId,
    /// What handlers are given. Requests may go to addresses of this machine (127.0.0.0/8).
    pub services: Services,
    kinds: Vec<Kind>,
    clock: TestClock,
    database: TestDatabase,
}

impl Kit {
    /// A platform with the kinds of the catalogue.
    ///
    /// # Panics
    /// When the database cannot be had.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A platform with further kinds, such as one that is not in the catalogue yet:
    /// `Kit::start_with(&[Kind::of::<ImageResize>()])`.
    ///
    /// # Panics
    /// When the database cannot be had.
    pub async fn start_with(kinds: &[Kind]) -> Self {
        let database = TestDatabase::create().await;
        let clock = clock::set_up(&database.url()).await;
        let pool = database.pool();
        let keys = MasterKeys::parse(&MasterKeys::generate()).expect("a master key");
        let loopback = "127.0.0.0/8".parse().expect("a network");
        let engine = Engine::new(pool.clone(), false);
        // Places for deliveries; those that are late may take half of them.
        let places = 2;
        let services = Services {
            webhooks: Clerk::new(pool.clone(), engine.clone(), keys.clone(), places),
            engine,
            egress: Egress::new(vec![loopback]).expect("an HTTP client"),
            pool,
            keys,
            blobs: None,
        };
        let mut kit = Self {
            tenant: TenantId::new(),
            services,
            kinds: kinds.to_vec(),
            clock,
            database,
        };
        kit.tenant = kit.new_tenant("acme").await;
        kit
    }

    /// One more tenant.
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

    /// The database, for what no helper shows.
    #[must_use]
    pub fn database(&self) -> &TestDatabase {
        &self.database
    }

    /// A transaction of the tenant.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn tx(&self) -> TenantTx {
        TenantTx::begin(&self.services.pool, self.tenant)
            .await
            .expect("a transaction")
    }

    /// Runs the handler of a kind once, as a worker would: through the decoding and checking of its
    /// payload, and the layer that makes verdicts of a panic, a timeout and a cancel. The job stands
    /// in no table, and nothing of it is written but what the handler writes itself.
    ///
    /// ```
    /// # use harkara_jobs::kinds::http_request::HttpRequest;
    /// # use harkara_kit::Kit;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let kit = Kit::start().await;
    /// let inside = serde_json::json!({"url": "http://169.254.169.254/latest"});
    /// let told = kit.perform::<HttpRequest>(inside).await.dead("egress_refused");
    /// assert!(told.wait.is_none());
    /// # });
    /// ```
    #[must_use = "nothing runs before it is awaited"]
    pub fn perform<K: JobKind>(&self, args: impl Serialize) -> Perform<'_> {
        Perform::new(self, Kind::of::<K>(), self.draft::<K>(args))
    }

    /// Enqueues a job for the tenant, with the defaults of its kind unless it is changed first, and
    /// answers its id.
    ///
    /// # Panics
    /// When the kind's own check finds fault with the payload: the API would refuse the job.
    #[must_use = "nothing is enqueued before it is awaited"]
    #[track_caller]
    pub fn enqueue<K: JobKind>(&self, args: impl Serialize) -> Enqueue<'_> {
        let job = self.draft::<K>(args);
        let faults = Kind::of::<K>().check(&job.payload);
        assert!(
            faults.is_empty(),
            "{}: the API would refuse {}: {faults:#?}",
            K::KIND,
            job.payload
        );
        Enqueue { kit: self, job }
    }

    /// Claims what is ready in a queue, runs it and settles it, until nothing is ready any more. Jobs
    /// that wait, for their time, a backoff, a limit, stay: the clock stands still.
    ///
    /// Follow-up jobs and retries without a wait are run too. What dead workers held is taken back
    /// first.
    #[must_use = "nothing is drained before it is awaited"]
    pub fn drain(&self, queue: &str) -> Drain<'_> {
        Drain::new(self, queue)
    }

    /// A job as it stands.
    ///
    /// # Panics
    /// When the tenant has no such job.
    pub async fn job(&self, id: JobId) -> Job {
        read::job(&mut *self.tx().await, id)
            .await
            .expect("an answer")
            .unwrap_or_else(|| panic!("there is no job {id}"))
    }

    /// The runs of a job that have ended, oldest first.
    ///
    /// # Panics
    /// When the tenant has no such job.
    pub async fn attempts(&self, id: JobId) -> Vec<Attempt> {
        read::attempts(&mut *self.tx().await, id)
            .await
            .expect("an answer")
            .unwrap_or_else(|| panic!("there is no job {id}"))
    }

    /// Cancels a job, as a person does: one that runs in a drain is told at once.
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
        Kind::of::<K>().job(payload)
    }
}

/// A job about to be enqueued; `await` it.
#[derive(Debug)]
pub struct Enqueue<'a> {
    kit: &'a Kit,
    job: NewJob,
}

impl Enqueue<'_> {
    /// Due this much later.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.job.delay = delay;
        self
    }

    /// Changes anything else of it: queue, lane, unique key, tags, limits.
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
