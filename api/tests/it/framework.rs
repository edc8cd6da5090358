//! Behavior common to all requests: ids, headers, health, metrics, database outages, shutdown.

use std::time::{Duration, Instant};

use harkara_accounts::Scope;
use harkara_shared::vault::MasterKeys;
use reqwest::Method;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::jobs::a_job;
use crate::support::{Client, Platform, listen};

#[tokio::test]
async fn unknown_route_and_wrong_method_return_problems() {
    let platform = Platform::start().await;
    for path in ["/nope", "/v1", "/v1/jobs/", "/v1/jobs/x/y/z", "/V1/jobs"] {
        let response = platform.client.with_key("").get(path).await;
        assert_eq!(response.problem(404, "not_found"), []);
        assert_eq!(response.json()["instance"], path);
    }
    let response = platform.client.delete("/v1/jobs").await;
    response.problem(405, "method_not_allowed");
    assert_eq!(response.header("allow"), "GET,HEAD,POST");
    platform
        .client
        .post_text("/healthz", "", "")
        .await
        .problem(405, "method_not_allowed");
}

#[tokio::test]
async fn every_response_has_a_request_id_and_security_headers() {
    let platform = Platform::start().await;
    for path in [
        "/v1/jobs",
        "/v1/jobs/job_x",
        "/nope",
        "/healthz",
        "/openapi.json",
    ] {
        let headers = [("x-request-id", "Mine-1")];
        let response = platform
            .client
            .send(Method::GET, path, &headers, None)
            .await;
        assert_eq!(response.header("x-request-id"), "Mine-1", "{path}");
        assert_eq!(
            response.header("x-content-type-options"),
            "nosniff",
            "{path}"
        );
        assert_eq!(response.header("cache-control"), "no-store", "{path}");
        let (one, two) = (
            platform.client.get(path).await,
            platform.client.get(path).await,
        );
        assert_eq!(one.header("x-request-id").len(), 36);
        assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
    }
    for bad in ["a b", "é", &"x".repeat(129)] {
        let headers = [("x-request-id", bad)];
        let response = platform
            .client
            .send(Method::GET, "/nope", &headers, None)
            .await;
        assert_eq!(response.header("x-request-id").len(), 36, "{bad}");
    }
}

#[tokio::test]
async fn malformed_traceparent_is_ignored() {
    let platform = Platform::start().await;
    let headers = [
        ("content-type", "application/json"),
        ("traceparent", "00-xyz-1-01"),
    ];
    let body = Some(a_job().to_string());
    let job = platform
        .client
        .send(Method::POST, "/v1/jobs", &headers, body)
        .await
        .expect(201);
    assert!(job["trace_id"].is_null());
}

#[tokio::test]
async fn health_and_metrics_need_no_key_and_metrics_count_by_template() {
    let platform = Platform::start().await;
    let anyone = platform.client.with_key("");
    assert_eq!(anyone.get("/healthz").await.text, "ok\n");
    assert_eq!(anyone.get("/readyz").await.text, "ready\n");
    platform.client.get("/v1/jobs/job_0000000000500").await;
    platform.client.get("/made/up/by/the/caller").await;
    platform
        .client
        .send(
            Method::from_bytes(b"MADEUP").unwrap(),
            "/v1/jobs",
            &[],
            None,
        )
        .await;
    let text = anyone.get("/metrics").await.text;
    for line in [
        r#"harkara_http_requests_total{method="GET",route="/v1/jobs/{id}",status="404"}"#,
        r#"harkara_http_requests_total{method="GET",route="unmatched",status="404"}"#,
        r#"harkara_http_requests_total{method="other",route="/v1/jobs",status="405"}"#,
        r#"harkara_http_request_seconds_bucket{method="GET",route="/v1/jobs/{id}",le="#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("made/up") && !text.contains("MADEUP"));
}

#[tokio::test]
async fn api_returns_503_without_its_database_and_recovers() {
    let platform = Platform::start().await;
    // A second server, whose database is a relay that can be cut.
    let relay = Relay::to(&platform).await;
    let pool = PgPoolOptions::new()
        .max_connections(5)
        .acquire_timeout(Duration::from_millis(500))
        .connect_lazy_with(relay.options.clone());
    let base = listen(&pool, &platform.keys, &platform.stop).await;
    let key = platform.key(&platform.acme, Scope::ALL, None).await;
    let client = Client::new(base, key);
    client.get("/v1/jobs").await.expect(200);

    relay.cut();
    for path in ["/v1/jobs", "/v1/deliveries", "/v1/webhook-endpoints"] {
        client.get(path).await.problem(503, "database_unavailable");
    }
    client
        .post("/v1/jobs", &a_job())
        .await
        .problem(503, "database_unavailable");
    assert_eq!(client.get("/readyz").await.status, 503);
    assert_eq!(client.get("/healthz").await.status, 200);
    assert_eq!(platform.jobs().await, 0);

    relay.mend();
    let waiting = Instant::now();
    while client.post("/v1/jobs", &a_job()).await.status != 201 {
        assert!(
            waiting.elapsed() < Duration::from_secs(10),
            "the API did not recover"
        );
    }
    assert_eq!(client.get("/readyz").await.status, 200);
}

/// A TCP relay to the test's database.
struct Relay {
    options: PgConnectOptions,
    state: watch::Sender<bool>,
}

impl Relay {
    async fn to(platform: &Platform) -> Self {
        let target = platform.pool.connect_options();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(listener.local_addr().unwrap().port())
            .username(target.get_username())
            .database(platform.database.name())
            .ssl_mode(PgSslMode::Disable);
        let url: url::Url = platform.database.url().parse().unwrap();
        if let Some(password) = url.password() {
            options = options.password(password);
        }
        let (state, open) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut open = open.clone();
                if !*open.borrow() {
                    continue;
                }
                let target = target.clone();
                tokio::spawn(async move {
                    let relayed = async {
                        match target.get_socket() {
                            Some(folder) => {
                                let file = format!(".s.PGSQL.{}", target.get_port());
                                let socket = folder.join(file);
                                let mut far = UnixStream::connect(socket).await?;
                                copy_bidirectional(&mut near, &mut far).await
                            }
                            None => {
                                let address = (target.get_host(), target.get_port());
                                let mut far = TcpStream::connect(address).await?;
                                copy_bidirectional(&mut near, &mut far).await
                            }
                        }
                    };
                    tokio::select! {
                        _ = relayed => {}
                        _ = open.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { options, state }
    }

    fn cut(&self) {
        self.state.send_replace(false);
    }

    fn mend(&self) {
        self.state.send_replace(true);
    }
}

#[tokio::test]
async fn concurrent_first_requests_do_not_starve_each_other() {
    let platform = Platform::start().await;
    let started = Instant::now();
    let tasks: Vec<_> = (0..64)
        .map(|index| {
            let client = platform.client.clone();
            let job = crate::jobs::a_job_with("queue", serde_json::json!(format!("q{index}")));
            tokio::spawn(async move { client.post("/v1/jobs", &job).await.expect(201) })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn shutdown_waits_for_requests_but_not_for_idle_connections() {
    let platform = Platform::start().await;
    let stop = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pool = platform.pool.clone();
    let keys = MasterKeys::parse(&MasterKeys::generate()).unwrap();
    let state = harkara_api::ApiState::new(
        pool.clone(),
        harkara_queue::Engine::new(pool.clone(), true),
        keys.clone(),
        harkara_shared::egress::Egress::new(Vec::new()).unwrap(),
        harkara_shared::process::Readiness::for_database(pool, stop.clone()),
        Default::default(),
    );
    let server = tokio::spawn(harkara_api::serve(listener, state, stop.clone()));

    // One unused connection, one kept alive, one in the middle of a request body.
    let _silent = TcpStream::connect(address).await.unwrap();
    let mut kept = TcpStream::connect(address).await.unwrap();
    kept.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut bytes = [0; 512];
    assert!(kept.read(&mut bytes).await.unwrap() > 0);
    let new = harkara_accounts::NewKey {
        tenant: platform.acme.id,
        name: "k".to_owned(),
        tier: harkara_accounts::KeyTier::Free,
        scopes: vec![Scope::JobsWrite],
        expires_at: None,
        addresses: Vec::new(),
    };
    let (_, key) =
        harkara_accounts::create_api_key(&platform.pool, &keys, new, &crate::support::tester())
            .await
            .unwrap();
    let job = a_job().to_string();
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        key.expose(),
        job.len()
    );
    let mut client_stream = TcpStream::connect(address).await.unwrap();
    client_stream.write_all(head.as_bytes()).await.unwrap();
    // The server responds with 100 Continue, so that the request is known to be in flight.
    let count = client_stream.read(&mut bytes).await.unwrap();
    assert!(
        bytes[..count].starts_with(b"HTTP/1.1 100"),
        "{:?}",
        bytes[..count].escape_ascii()
    );

    let stopped = Instant::now();
    stop.cancel();
    assert_eq!(
        kept.read(&mut bytes).await.unwrap(),
        0,
        "an idle connection must be closed"
    );
    client_stream.write_all(job.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    client_stream.read_to_end(&mut response).await.unwrap();
    assert!(
        response.starts_with(b"HTTP/1.1 201"),
        "{}",
        response.escape_ascii()
    );
    server.await.unwrap().unwrap();
    assert!(
        stopped.elapsed() < Duration::from_secs(5),
        "{:?}",
        stopped.elapsed()
    );
    assert!(
        TcpStream::connect(address).await.is_err(),
        "the port must be closed"
    );
}
