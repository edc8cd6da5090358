//! Creates and drops the databases of a test process, on one thread.
//! Tests send requests from their own runtimes and receive databases copied from a migrated template.
//! It never shares a connection with a test.
//!
//! A thread with a runtime of its own owns the server and the connections, because a test's runtime
//! ends with the test. Tests talk to it through channels, which belong to no runtime.

#![expect(
    clippy::disallowed_types,
    reason = "a database name cannot be a bind parameter, and all names are generated here"
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

/// What a new database is a copy of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Template {
    /// The schema of this release.
    Migrated,
    /// No schema.
    Empty,
}

/// A request of a test.
enum Request {
    Create(String, Template, oneshot::Sender<Result<(), sqlx::Error>>),
    Drop(String),
}

/// The server that all tests of the process share, and the channel for requests.
#[derive(Debug)]
pub(crate) struct Keeper {
    server: Server,
    requests: mpsc::UnboundedSender<Request>,
    count: AtomicU32,
}

/// The server's address and the prefix of its test databases.
#[derive(Debug, Clone)]
struct Server {
    owner: Url,
    superuser: Url,
    prefix: String,
}

/// Resources that must live as long as the process.
#[expect(dead_code, reason = "held only for their drop")]
enum Hold {
    Private(Box<Cluster>),
    Given(Run),
}

/// `None` after a failure, which would repeat for every further test.
static KEEPER: OnceLock<Option<Keeper>> = OnceLock::new();

impl Keeper {
    /// The keeper, started by the first test that needs it; other tests wait.
    pub(crate) async fn of_this_process() -> &'static Self {
        if KEEPER.get().is_none() {
            tokio::task::spawn_blocking(|| KEEPER.get_or_init(Self::start))
                .await
                .expect("a waiting thread");
        }
        KEEPER
            .get()
            .and_then(Option::as_ref)
            .expect("the test server; its failure was reported by the first test that needed it")
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

    /// Creates a database and returns its name.
    pub(crate) async fn create(&self, template: Template) -> String {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{number}", self.server.prefix);
        let (reply, done) = oneshot::channel();
        // An unreceived request results in a missing reply.
        let _ = self
            .requests
            .send(Request::Create(name.clone(), template, reply));
        done.await
            .expect("the keeper of the test databases is running")
            .expect("a copy of the template");
        name
    }

    /// Requests that a database be dropped, even with open connections.
    pub(crate) fn drop_database(&self, name: String) {
        // Without a keeper the process is ending; the server's end or a later run removes the database.
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

/// Runs the keeper thread: prepares the server, then serves requests until the process ends.
async fn keep(ready: &sync::mpsc::Sender<Server>, mut inbox: mpsc::UnboundedReceiver<Request>) {
    let (server, owner, _hold) = open().await;
    let admin = PgPoolOptions::new()
        .max_connections(4)
        .connect_lazy_with(options(&server.superuser));
    let template = format!("{}template", server.prefix);
    // template0 never has connections, so that concurrent runs do not block each other.
    run(
        &admin,
        format!("create database {template} template template0{owner}"),
    )
    .await
    .expect("an empty database");
    migrate(&with_database(&server.owner, &template)).await;
    ready
        .send(server)
        .expect("the test that started the keeper");

    while let Some(request) = inbox.recv().await {
        let admin = admin.clone();
        match request {
            Request::Create(name, source, reply) => {
                let source = match source {
                    Template::Migrated => &*template,
                    Template::Empty => "template0",
                };
                let sql = format!("create database {name} template {source}{owner}");
                tokio::spawn(async move { reply.send(run(&admin, sql).await) });
            }
            Request::Drop(name) => {
                let sql = format!("drop database if exists {name} with (force)");
                // After a failure, the server's end or a later run removes the database.
                tokio::spawn(async move { drop(run(&admin, sql).await) });
            }
        }
    }
}

/// The server to use, the owner clause for its databases, and the resources that keep it alive.
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

/// Runs a statement built from generated names only.
async fn run(admin: &PgPool, sql: String) -> Result<(), sqlx::Error> {
    admin.execute(AssertSqlSafe(sql)).await.map(drop)
}

fn with_database(server: &Url, database: &str) -> Url {
    let mut url = server.clone();
    url.set_path(database);
    url
}
