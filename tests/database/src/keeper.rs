//! Room: the one place of a test process that makes and drops databases.
//! Takes: requests from any test, each in its own runtime. Gives: databases copied from a migrated
//! template. Never: shares a connection with a test.
//!
//! A thread with a runtime of its own owns the server and the connections, because a test's runtime
//! ends with the test. Tests talk to it through channels, which belong to no runtime.

#![expect(
    clippy::disallowed_types,
    reason = "a database's name cannot be a parameter, and all names here are our own"
)]

use std::env;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{sync, thread};

use harkara_postgres::Cluster;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::{mpsc, oneshot};
use url::Url;

use crate::own::{fast_directory, parsed, start_cluster};
use crate::shared_server::Run;
use crate::{migrate, options};

/// What a test may ask for.
enum Request {
    Create(String, oneshot::Sender<Result<(), sqlx::Error>>),
    Drop(String),
}

/// The server all tests of the process share, and who may ask it for databases.
#[derive(Debug)]
pub(crate) struct Keeper {
    server: Server,
    requests: mpsc::UnboundedSender<Request>,
    count: AtomicU32,
}

/// Where the databases are and what their names begin with.
#[derive(Debug, Clone)]
struct Server {
    owner: Url,
    superuser: Url,
    prefix: String,
}

/// What must live as long as the process does.
#[expect(dead_code, reason = "held, not read: their loss is what ends them")]
enum Hold {
    Private(Box<Cluster>),
    Given(Run),
}

/// None after a failure, which every further test would only meet again.
static KEEPER: OnceLock<Option<Keeper>> = OnceLock::new();

impl Keeper {
    /// The keeper, made by the first test that asks; the others wait meanwhile.
    pub(crate) async fn of_this_process() -> &'static Self {
        if KEEPER.get().is_none() {
            tokio::task::spawn_blocking(|| KEEPER.get_or_init(Self::start))
                .await
                .expect("a thread to wait in");
        }
        KEEPER
            .get()
            .and_then(Option::as_ref)
            .expect("the test server, whose failure was shown by the first test that needed it")
    }

    /// Starts the thread and waits until the template is ready.
    fn start() -> Option<Self> {
        let (requests, inbox) = mpsc::unbounded_channel();
        let (ready, server) = sync::mpsc::channel();
        thread::Builder::new()
            .name("harkara-test-database".to_owned())
            .spawn(move || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime")
                    .block_on(keep(&ready, inbox));
            })
            .expect("a thread");
        let server = server.recv().ok()?;
        Some(Self {
            server,
            requests,
            count: AtomicU32::new(0),
        })
    }

    /// Makes a database and tells its name.
    pub(crate) async fn create(&self) -> String {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{number}", self.server.prefix);
        let (reply, done) = oneshot::channel();
        // An unheard request shows as a missing reply.
        let _ = self.requests.send(Request::Create(name.clone(), reply));
        done.await
            .expect("the keeper of the test databases lives")
            .expect("a copy of the template");
        name
    }

    /// Drops a database soon, whoever is connected to it.
    pub(crate) fn drop_database(&self, name: String) {
        // Without a keeper the process is ending, and the server or a later run does the work.
        let _ = self.requests.send(Request::Drop(name));
    }

    /// A database of this server as its owner.
    pub(crate) fn owner_url(&self, database: &str) -> Url {
        with_database(&self.server.owner, database)
    }

    /// A database of this server as the superuser.
    pub(crate) fn superuser_url(&self, database: &str) -> Url {
        with_database(&self.server.superuser, database)
    }
}

/// The thread's work: prepare, then answer requests as long as the process lives.
async fn keep(ready: &sync::mpsc::Sender<Server>, mut inbox: mpsc::UnboundedReceiver<Request>) {
    let (server, owner, _hold) = open().await;
    let admin = PgPoolOptions::new()
        .max_connections(4)
        .connect_lazy_with(options(&server.superuser));
    let template = format!("{}template", server.prefix);
    // Nobody is ever connected to template0, so that runs do not meet there.
    run(
        &admin,
        format!("create database {template} template template0{owner}"),
    )
    .await
    .expect("an empty database");
    migrate(&with_database(&server.owner, &template)).await;
    ready.send(server).expect("the test that started us");

    while let Some(request) = inbox.recv().await {
        let admin = admin.clone();
        match request {
            Request::Create(name, reply) => {
                let sql = format!("create database {name} template {template}{owner}");
                tokio::spawn(async move { reply.send(run(&admin, sql).await) });
            }
            Request::Drop(name) => {
                let sql = format!("drop database if exists {name} with (force)");
                // A failure is made good by the end of the server or by a later run.
                tokio::spawn(async move { drop(run(&admin, sql).await) });
            }
        }
    }
}

/// The server to use, the clause that names the owner of its databases, and what keeps it.
async fn open() -> (Server, &'static str, Hold) {
    if let Some(given) = env::var_os("DATABASE_URL").filter(|url| !url.is_empty()) {
        let url = parsed(given.to_str().expect("DATABASE_URL as text"));
        let run = Run::begin(&url).await;
        let server = Server {
            owner: url.clone(),
            superuser: url,
            prefix: run.prefix().to_owned(),
        };
        return (server, "", Hold::Given(run));
    }
    let forgetful = [
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("max_connections", "300"),
        ("max_wal_size", "256MB"),
    ];
    let cluster = start_cluster(&fast_directory(), &forgetful).await;
    let server = Server {
        owner: parsed(&cluster.url()),
        superuser: parsed(&cluster.superuser_url()),
        prefix: "test_".to_owned(),
    };
    (server, " owner harkara", Hold::Private(Box::new(cluster)))
}

/// Runs a statement made of names that we chose ourselves.
async fn run(admin: &PgPool, sql: String) -> Result<(), sqlx::Error> {
    admin.execute(AssertSqlSafe(sql)).await.map(drop)
}

fn with_database(server: &Url, database: &str) -> Url {
    let mut url = server.clone();
    url.set_path(database);
    url
}
