//! The platform as operators run it: its binaries on a database.
//! Takes a database's address, and provides processes, tenants and clients.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use harkara_accounts::{self as accounts, KeyTier, NewKey, NewTenant, Scope, SlaTier};
use harkara_queue::Engine;
use harkara_queue::settings::{LimitChange, TenantChange};
use harkara_shared::audit::Actor;
use harkara_shared::vault::MasterKeys;
use harkara_test_database::TestDatabase;
use sqlx::PgPool;

use crate::process::free_address;
use crate::{Client, Process, until};

/// The maximum start-up time of a process in a debug build on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Settings common to the processes of one test.
#[derive(Debug, Clone)]
pub struct Platform {
    database_url: String,
    master_key: String,
    pool: PgPool,
    /// Where the processes' programs are; those of this build when not set.
    binaries: Option<PathBuf>,
    /// Whether services are started as `harkara api` rather than `harkara-api`.
    single_binary: bool,
}

/// Every scope except the platform's own.
#[must_use]
pub fn everything() -> Vec<Scope> {
    Scope::ALL
        .iter()
        .copied()
        .filter(|scope| *scope != Scope::PlatformAdmin)
        .collect()
}

impl Platform {
    /// A platform on a migrated database.
    #[must_use]
    pub fn on(database_url: String, pool: PgPool) -> Self {
        Self {
            database_url,
            master_key: MasterKeys::generate(),
            pool,
            binaries: None,
            single_binary: false,
        }
    }

    /// Starts programs from this directory, such as those of an earlier release.
    #[must_use]
    pub fn with_binaries(mut self, directory: PathBuf) -> Self {
        self.binaries = Some(directory);
        self
    }

    /// Starts every service from the program `harkara`.
    #[must_use]
    pub fn with_single_binary(mut self) -> Self {
        self.single_binary = true;
        self
    }

    fn start(&self, name: &str, environment: &[(&'static str, String)]) -> Process {
        let program = match &self.binaries {
            Some(directory) => directory.join(name).to_string_lossy().into_owned(),
            None => name.to_owned(),
        };
        match program.rsplit_once('-') {
            Some((harkara, service)) if self.single_binary => {
                Process::start(harkara, &[service], environment)
            }
            _ => Process::start(&program, &[], environment),
        }
    }

    /// Creates a tenant without limits, and a client whose key has all tenant scopes.
    ///
    /// # Panics
    /// When they cannot be created.
    pub async fn tenant(&self, slug: &str, api: SocketAddr) -> Client {
        let master = MasterKeys::parse(&self.master_key).unwrap();
        let new = NewTenant {
            slug: slug.to_owned(),
            name: slug.to_owned(),
            sla_tier: SlaTier::Enterprise,
        };
        let tenant = accounts::create_tenant(&self.pool, new, &Actor::system("test"))
            .await
            .expect("the tenant is created");
        let change = TenantChange {
            limit: LimitChange::removal(),
            ..TenantChange::default()
        };
        Engine::new(self.pool.clone(), true)
            .set_tenant(tenant.id, &change)
            .await
            .expect("the limit of the tenant is removed");
        let new = NewKey {
            tenant: tenant.id,
            name: "test".to_owned(),
            tier: KeyTier::Enterprise,
            scopes: everything(),
            expires_at: None,
            addresses: Vec::new(),
        };
        let (_, key) = accounts::create_api_key(&self.pool, &master, new, &Actor::system("test"))
            .await
            .expect("the key is created");
        Client::new(api, key.expose())
    }

    fn environment(&self, more: &[(&'static str, String)]) -> Vec<(&'static str, String)> {
        let mut environment = vec![
            ("DATABASE_URL", self.database_url.clone()),
            ("HARKARA_MASTER_KEY", self.master_key.clone()),
            ("HARKARA_EGRESS_ALLOW", "127.0.0.0/8".to_owned()),
        ];
        environment.extend_from_slice(more);
        environment
    }

    /// Starts an API process and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn api(&self) -> (Process, SocketAddr) {
        let address = free_address();
        let environment = self.environment(&[("HARKARA_API_ADDR", address.to_string())]);
        let process = self.start("harkara-api", &environment);
        ready(&process, address).await;
        (process, address)
    }

    /// Starts a worker process without waiting for its readiness.
    #[must_use]
    pub fn worker(&self, queues: &str, lease_secs: u32, drain_secs: u32) -> (Process, SocketAddr) {
        let settings = [
            ("HARKARA_LEASE_SECS", lease_secs.to_string()),
            ("HARKARA_WORKER_DRAIN_SECS", drain_secs.to_string()),
        ];
        self.worker_with(queues, &settings)
    }

    /// Starts a worker process with further settings.
    #[must_use]
    pub fn worker_with(
        &self,
        queues: &str,
        settings: &[(&'static str, String)],
    ) -> (Process, SocketAddr) {
        let address = free_address();
        let mut own = vec![
            ("HARKARA_WORKER_ADDR", address.to_string()),
            ("HARKARA_WORKER_QUEUES", queues.to_owned()),
        ];
        own.extend_from_slice(settings);
        let environment = self.environment(&own);
        (self.start("harkara-worker", &environment), address)
    }

    /// Starts a scheduler process without waiting for its readiness.
    #[must_use]
    pub fn scheduler(&self) -> (Process, SocketAddr) {
        let address = free_address();
        let environment = self.environment(&[("HARKARA_SCHEDULER_ADDR", address.to_string())]);
        (self.start("harkara-scheduler", &environment), address)
    }
}

/// A database with an API process and a tenant; most tests start from it.
#[derive(Debug)]
pub struct Fixture {
    /// The test database.
    pub database: TestDatabase,
    /// Starts processes on the database.
    pub platform: Platform,
    /// A client of the tenant.
    pub client: Client,
    _api: Process,
}

impl Fixture {
    /// Starts the API and creates the tenant.
    ///
    /// # Panics
    /// When either fails.
    pub async fn start() -> Self {
        let database = TestDatabase::create().await;
        let platform = Platform::on(database.url(), database.pool());
        let (api, address) = platform.api().await;
        let client = platform.tenant("acme", address).await;
        Self {
            database,
            platform,
            client,
            _api: api,
        }
    }
}

/// Waits until `/readyz` answers 200.
///
/// # Panics
/// When it does not within the start-up time.
pub async fn ready(process: &Process, address: SocketAddr) {
    let client = Client::new(address, "");
    let what = format!("process {} at {address} is ready", process.pid());
    until(&what, START_TIMEOUT, || async {
        client
            .try_get("/readyz")
            .await
            .ok()
            .filter(|answer| answer.status == 200)
    })
    .await;
}
