//! State shared by all handlers: pool, queue, keys and clients, created at start-up.
//!
//! Nothing in it is shared with other processes; all common state is in the database.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use harkara_accounts::users::password::Passwords;
use harkara_queue::{Coalescer, Engine};
use harkara_shared::blob::BlobStore;
use harkara_shared::config::HttpSettings;
use harkara_shared::database::TenantTx;
use harkara_shared::egress::Egress;
use harkara_shared::process::Readiness;
use harkara_shared::vault::MasterKeys;
use sqlx::{PgPool, Postgres, Transaction};
use tokio_util::task::TaskTracker;

use crate::auth::{Caller, Keyring};
use crate::cursor::Cursors;
use crate::limits::RequestLimits;
use crate::portal::PortalLinks;
use crate::problem::Problem;
use crate::sign_in::cookie::Csrf;
use crate::sign_in::oidc::{self, Oidc};
use crate::usage::UsageRecorder;

/// Shared by all requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ApiState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    engine: Engine,
    /// Created by the first request that needs it, on that request's runtime.
    coalescer: OnceLock<Coalescer>,
    keys: MasterKeys,
    egress: Egress,
    readiness: Readiness,
    keyring: Keyring,
    limits: RequestLimits,
    usage: UsageRecorder,
    cursors: Cursors,
    in_flight: TaskTracker,
    http: HttpSettings,
    /// The address the API listens on.
    address: OnceLock<SocketAddr>,
    passwords: Passwords,
    csrf: Csrf,
    portal_links: PortalLinks,
    oidc: Option<Oidc>,
    blobs: Option<BlobStore>,
}

impl ApiState {
    /// The state of an API on `pool`, whose role works across tenants.
    #[must_use]
    pub fn new(
        pool: PgPool,
        engine: Engine,
        keys: MasterKeys,
        egress: Egress,
        readiness: Readiness,
        http: HttpSettings,
    ) -> Self {
        let csrf = Csrf::new(&keys);
        Self(Arc::new(Inner {
            keyring: Keyring::new(pool.clone(), &keys),
            limits: RequestLimits::new(pool.clone()),
            usage: UsageRecorder::new(pool.clone()),
            cursors: Cursors::new(&keys),
            portal_links: PortalLinks::new(&keys),
            in_flight: TaskTracker::new(),
            pool,
            engine,
            coalescer: OnceLock::new(),
            keys,
            egress,
            readiness,
            address: OnceLock::new(),
            passwords: Passwords::default(),
            csrf,
            oidc: http.oidc.clone().and_then(oidc::provider),
            http,
            blobs: None,
        }))
    }

    /// Sets the file storage. Only for a state that is not shared yet.
    #[must_use]
    pub fn with_blobs(mut self, blobs: Option<BlobStore>) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.blobs = blobs;
        }
        self
    }

    /// Begins a transaction of the tenant that the caller acts for, and marks the request's idempotency key,
    /// if any.
    pub(crate) async fn begin(&self, caller: &Caller) -> Result<TenantTx, Problem> {
        let mut tx = TenantTx::begin(&self.0.pool, caller.tenant).await?;
        caller.mark_committed(&mut tx).await?;
        Ok(tx)
    }

    /// Begins a transaction across tenants, and marks the request's idempotency key, if any.
    pub(crate) async fn begin_across(
        &self,
        caller: &Caller,
    ) -> Result<Transaction<'static, Postgres>, Problem> {
        let mut tx = self.0.pool.begin().await?;
        caller.mark_committed(&mut tx).await?;
        Ok(tx)
    }

    /// HTTP settings.
    pub(crate) fn http(&self) -> &HttpSettings {
        &self.0.http
    }

    /// The platform's public URL: the configured one, else the address it listens on.
    pub(crate) fn base_url(&self) -> String {
        let configured = self.0.http.public_url.as_ref().map(ToString::to_string);
        configured
            .or_else(|| {
                self.0
                    .address
                    .get()
                    .map(|address| format!("http://{address}"))
            })
            .unwrap_or_default()
    }

    /// Records the address the API listens on.
    pub(crate) fn set_address(&self, address: SocketAddr) {
        // With several addresses, the first one counts.
        self.0.address.get_or_init(|| address);
    }

    /// Whether the public URL uses TLS.
    pub(crate) fn is_secure(&self) -> bool {
        let url = self.0.http.public_url.as_ref();
        url.is_some_and(|url| url.scheme() == "https")
    }

    /// Hashes and verifies passwords.
    pub(crate) fn passwords(&self) -> &Passwords {
        &self.0.passwords
    }

    /// CSRF tokens.
    pub(crate) fn csrf(&self) -> &Csrf {
        &self.0.csrf
    }

    /// Portal links.
    pub(crate) fn portal_links(&self) -> &PortalLinks {
        &self.0.portal_links
    }

    /// The OpenID Connect provider, if configured.
    pub(crate) fn oidc(&self) -> Option<&Oidc> {
        self.0.oidc.as_ref()
    }

    /// File storage, if configured.
    pub(crate) fn blobs(&self) -> Option<&BlobStore> {
        self.0.blobs.as_ref()
    }

    /// The pool, for queries before or across tenants.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.0.pool
    }

    /// The queue.
    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// Enqueues single jobs of concurrent requests in one statement.
    pub(crate) fn coalescer(&self) -> &Coalescer {
        self.0
            .coalescer
            .get_or_init(|| Coalescer::new(&self.0.engine))
    }

    /// Master keys, which encrypt stored secrets.
    pub(crate) fn keys(&self) -> &MasterKeys {
        &self.0.keys
    }

    /// Guards requests to other servers.
    pub(crate) fn egress(&self) -> &Egress {
        &self.0.egress
    }

    /// Whether the process can serve requests.
    pub(crate) fn readiness(&self) -> &Readiness {
        &self.0.readiness
    }

    /// Looks up API keys.
    pub(crate) fn keyring(&self) -> &Keyring {
        &self.0.keyring
    }

    /// Charges requests.
    pub(crate) fn limits(&self) -> &RequestLimits {
        &self.0.limits
    }

    /// Counts requests that passed their limits.
    pub(crate) fn usage(&self) -> &UsageRecorder {
        &self.0.usage
    }

    /// Issues and reads cursors.
    pub(crate) fn cursors(&self) -> &Cursors {
        &self.0.cursors
    }

    /// Tracks requests in flight.
    pub(crate) fn in_flight(&self) -> &TaskTracker {
        &self.0.in_flight
    }
}
