//! Runs the examples of docs/TRANSACTIONS.md unchanged with the client libraries of applications.

#![expect(
    clippy::disallowed_types,
    reason = "statements name a role that is made for the test"
)]

use std::process::{Command, Output};
use std::time::Duration;

use harkara_jobs::publish::publish;
use harkara_queue::Engine;
use harkara_tests::{Fixture, Receiver, Reply, node_packages, receiver_python, until, workspace};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

const JOB_TIMEOUT: Duration = Duration::from_secs(60);
const PASSWORD: &str = "sesame";

/// A shop application on the platform's database, with a worker and a receiver.
struct Shop {
    fixture: Fixture,
    receiver: Receiver,
    role: String,
    _worker: harkara_tests::Process,
}

impl Shop {
    async fn open() -> Self {
        let fixture = Fixture::start().await;
        let receiver = Receiver::start(|_| Reply::status(200)).await;
        let (worker, _) = fixture.platform.worker("http=4,webhook=1", 30, 5);
        let engine = Engine::new(fixture.database.pool(), true);
        publish(&engine).await.unwrap();
        let role = format!("shop_{}", fixture.database.name());
        let mut connection = PgConnection::connect(&fixture.database.superuser_url())
            .await
            .unwrap();
        for sql in [
            format!("create role {role} login password '{PASSWORD}'"),
            "create schema shop".to_owned(),
            "create table shop.orders (id int primary key, customer text, total int)".to_owned(),
            format!(
                "grant usage on schema shop to {role}; grant all on shop.orders to {role};
                grant usage on schema shop to public; grant select on shop.orders to public"
            ),
            format!("alter role {role} set search_path = shop"),
        ] {
            connection.execute(AssertSqlSafe(sql)).await.unwrap();
        }
        let acme = harkara_accounts::find_tenant(&fixture.database.pool(), "acme")
            .await
            .unwrap();
        let acme = acme.map(|tenant| tenant.id);
        engine.grant_client(&role, acme).await.unwrap();
        Self {
            fixture,
            receiver,
            role,
            _worker: worker,
        }
    }

    /// The URL of the database for the shop's own role.
    fn url(&self) -> String {
        let url = self.fixture.database.url();
        let (scheme, rest) = url.split_once("://").unwrap();
        let rest = rest.split_once('@').map_or(rest, |(_, rest)| rest);
        format!("{scheme}://{}:{PASSWORD}@{rest}", self.role)
    }

    /// The examples in a language, with the receiver's URL instead of public ones.
    fn examples(&self, language: &str) -> Vec<String> {
        let text = std::fs::read_to_string(workspace().join("docs/TRANSACTIONS.md")).unwrap();
        let examples: Vec<String> = text
            .split(&format!("```{language}\n"))
            .skip(1)
            .map(|rest| rest.split("```").next().unwrap().to_owned())
            .map(|example| {
                let own = self.receiver.url.trim_end_matches('/');
                example
                    .replace("https://example.com/confirm", own)
                    .replace("https://example.com/ship", own)
            })
            .collect();
        assert!(!examples.is_empty(), "{language}");
        examples
    }

    async fn orders(&self) -> i64 {
        harkara_shared::database::query_scalar("select count(*) from shop.orders")
            .fetch_one(&self.fixture.database.pool())
            .await
            .unwrap()
    }

    /// Waits until the job has succeeded, and returns it.
    async fn done(&self, id: &str) -> Value {
        let path = format!("/v1/jobs/{id}");
        until(&format!("{id} has run"), JOB_TIMEOUT, || async {
            let job = self.fixture.client.get(&path).await.ok();
            (job["state"] == "succeeded").then_some(job)
        })
        .await
    }

    fn bodies(&self) -> Vec<String> {
        let hits = self.receiver.hits();
        hits.iter()
            .map(|hit| String::from_utf8_lossy(&hit.body).into_owned())
            .collect()
    }

    async fn close(self) {
        let mut connection = PgConnection::connect(&self.fixture.database.superuser_url())
            .await
            .unwrap();
        let sql = format!("drop owned by {0}; drop role {0}", self.role);
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
    }
}

fn stdout(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_examples_run_unchanged() {
    let shop = Shop::open().await;
    let examples = shop.examples("sql");
    assert_eq!(examples.len(), 2);
    let mut connection = PgConnection::connect(&shop.url()).await.unwrap();
    for example in examples {
        let rows = connection.fetch_all(AssertSqlSafe(example)).await.unwrap();
        for row in rows {
            let id: String = sqlx::Row::get(&row, "id");
            assert!(!sqlx::Row::get::<bool, _>(&row, "existing"));
            shop.done(&id).await;
        }
    }
    assert_eq!(shop.bodies(), [r#"{"order":42}"#, "42"]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs psycopg: run by .ci/run"]
async fn python_examples_run_unchanged() {
    let python = receiver_python();
    let shop = Shop::open().await;
    let [enqueues, is_refused] = <[String; 2]>::try_from(shop.examples("python")).unwrap();
    let run = |script: &str| {
        let mut command = Command::new(&python);
        command.args(["-c", script]).env("DATABASE_URL", shop.url());
        command.output().unwrap()
    };
    let id = stdout(&run(&enqueues));
    let job = shop.done(&id).await;
    assert_eq!(job["unique_key"], "order-43");
    assert_eq!(shop.bodies(), [r#"{"order":43}"#]);
    assert_eq!(
        stdout(&run(&is_refused)),
        "HK422\n/payload/url missing\n/priority out_of_range"
    );
    // The order exists, so the whole transaction is rolled back.
    let again = run(&enqueues.replace("order-43", "order-43-again"));
    assert!(!again.status.success(), "the order exists already");
    let failing = enqueues
        .replace("(43,", "(143,")
        .replace("http.request", "no.such.kind");
    let failed = run(&failing);
    let errors = String::from_utf8_lossy(&failed.stderr);
    assert!(
        errors.contains("/kind: must be the name of a kind"),
        "{errors}"
    );
    assert_eq!(shop.orders().await, 1, "no order without its job");
    let jobs = shop.fixture.client.get("/v1/jobs").await.ok();
    assert_eq!(
        jobs["data"].as_array().unwrap().len(),
        1,
        "no job without its order"
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Node.js and pg: run by .ci/run"]
async fn typescript_example_runs_unchanged() {
    let packages = node_packages();
    let shop = Shop::open().await;
    let [example] = <[String; 1]>::try_from(shop.examples("typescript")).unwrap();
    // The example is valid JavaScript too, because it needs no type annotation.
    let file = packages.join(format!("{}.mjs", shop.role));
    std::fs::write(&file, &example).unwrap();
    let run = || {
        let mut command = Command::new("node");
        command
            .arg(&file)
            .current_dir(&packages)
            .env("DATABASE_URL", shop.url());
        command.output().unwrap()
    };
    let id = stdout(&run());
    let job = shop.done(&id).await;
    assert_eq!(job["payload"]["body"], json!({"order": 44}));
    assert_eq!(shop.bodies(), [r#"{"order":44}"#]);
    std::fs::write(
        &file,
        example
            .replace("[44,", "[45,")
            .replace("http.request", "no.such.kind"),
    )
    .unwrap();
    let failed = run();
    let errors = String::from_utf8_lossy(&failed.stderr);
    assert!(errors.contains("HK422"), "{errors}");
    assert_eq!(shop.orders().await, 1, "no order without its job");
    std::fs::remove_file(&file).unwrap();
    shop.close().await;
}
