//! Test fixture: an API on a database of its own, and an HTTP client for it.

use chrono::{DateTime, Utc};
use harkara_accounts::{
    KeyTier, NewKey, NewTenant, Scope, SlaTier, Tenant, create_api_key, create_tenant,
};
use harkara_api::{ApiState, serve};
use harkara_queue::Engine;
use harkara_shared::audit::Actor;
use harkara_shared::config::HttpSettings;
use harkara_shared::database::query_scalar;
use harkara_shared::egress::{Egress, client_config};
use harkara_shared::process::Readiness;
use harkara_shared::vault::MasterKeys;
use harkara_test_database::TestDatabase;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// An API on a database of its own, with the tenant `acme` and a key with all tenant scopes.
pub(crate) struct Platform {
    pub(crate) pool: PgPool,
    pub(crate) keys: MasterKeys,
    pub(crate) acme: Tenant,
    /// The client that calls as `acme`.
    pub(crate) client: Client,
    pub(crate) stop: CancellationToken,
    pub(crate) database: TestDatabase,
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Platform {
    pub(crate) async fn start() -> Self {
        let database = TestDatabase::create().await;
        let pool = database.pool();
        let keys = MasterKeys::parse(&MasterKeys::generate()).unwrap();
        let stop = CancellationToken::new();
        let base = listen(&pool, &keys, &stop).await;
        let acme = tenant(&pool, "acme").await;
        let mut platform = Self {
            client: Client::new(base, String::new()),
            pool,
            keys,
            acme,
            stop,
            database,
        };
        let every: Vec<Scope> = Scope::ALL
            .iter()
            .copied()
            .filter(|scope| *scope != Scope::PlatformAdmin)
            .collect();
        platform.client = platform.client_of(&platform.acme, &every).await;
        platform
    }

    /// A client with a key of its own.
    pub(crate) async fn client_of(&self, tenant: &Tenant, scopes: &[Scope]) -> Client {
        self.client.with_key(&self.key(tenant, scopes, None).await)
    }

    /// The text of a new key.
    pub(crate) async fn key(
        &self,
        tenant: &Tenant,
        scopes: &[Scope],
        expires_at: Option<DateTime<Utc>>,
    ) -> String {
        let new = NewKey {
            tenant: tenant.id,
            name: "test".to_owned(),
            tier: KeyTier::Enterprise,
            scopes: scopes.to_vec(),
            expires_at,
            addresses: Vec::new(),
        };
        let (_, text) = create_api_key(&self.pool, &self.keys, new, &tester())
            .await
            .unwrap();
        text.expose().to_owned()
    }

    /// Another tenant.
    pub(crate) async fn tenant(&self, slug: &str) -> Tenant {
        tenant(&self.pool, slug).await
    }

    /// The number of jobs of all tenants.
    pub(crate) async fn jobs(&self) -> i64 {
        query_scalar("select coalesce(sum(n), 0)::int8 from queue.parcels")
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }
}

async fn tenant(pool: &PgPool, slug: &str) -> Tenant {
    let new = NewTenant {
        slug: slug.to_owned(),
        name: slug.to_owned(),
        sla_tier: SlaTier::Enterprise,
    };
    create_tenant(pool, new, &tester()).await.unwrap()
}

/// The actor of resources created by tests.
pub(crate) fn tester() -> Actor {
    Actor::system("test")
}

/// Serves an API on `pool` and returns its base URL.
pub(crate) async fn listen(pool: &PgPool, keys: &MasterKeys, stop: &CancellationToken) -> String {
    listen_with(pool, keys, stop, HttpSettings::default()).await
}

/// The same with settings.
pub(crate) async fn listen_with(
    pool: &PgPool,
    keys: &MasterKeys,
    stop: &CancellationToken,
    http: HttpSettings,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let egress = Egress::new(vec!["127.0.0.0/8".parse().unwrap()]).unwrap();
    let readiness = Readiness::for_database(pool.clone(), stop.clone());
    let engine = Engine::new(pool.clone(), true);
    let state = ApiState::new(pool.clone(), engine, keys.clone(), egress, readiness, http);
    tokio::spawn(serve(listener, state, stop.clone()));
    base
}

/// Calls an API with a key.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) base: String,
    key: String,
    http: reqwest::Client,
}

/// A response of the API.
#[derive(Debug)]
pub(crate) struct TestResponse {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Client {
    pub(crate) fn new(base: String, key: String) -> Self {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(client_config().unwrap())
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self { base, key, http }
    }

    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self {
            key: key.to_owned(),
            ..self.clone()
        }
    }

    /// The same client for another server.
    pub(crate) fn at(&self, base: &str) -> Self {
        Self {
            base: base.to_owned(),
            ..self.clone()
        }
    }

    /// Whether a server responds at this path yet.
    pub(crate) async fn is_reachable(&self, path: &str) -> bool {
        let response = self.http.get(format!("{}{path}", self.base)).send().await;
        response.is_ok_and(|response| response.status().is_success())
    }

    pub(crate) async fn get(&self, path: &str) -> TestResponse {
        self.send(Method::GET, path, &[], None).await
    }

    /// A response whose body is read incrementally.
    pub(crate) async fn open(&self, path: &str) -> reqwest::Response {
        let request = self.http.get(format!("{}{path}", self.base));
        request
            .bearer_auth(&self.key)
            .send()
            .await
            .expect("a response")
    }

    pub(crate) async fn delete(&self, path: &str) -> TestResponse {
        self.send(Method::DELETE, path, &[], None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> TestResponse {
        self.post_text(path, "application/json", body.to_string())
            .await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> TestResponse {
        let json = [("content-type", "application/json")];
        self.send(Method::PATCH, path, &json, Some(body.to_string()))
            .await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> TestResponse {
        let json = [("content-type", "application/json")];
        self.send(Method::PUT, path, &json, Some(body.to_string()))
            .await
    }

    /// A request that has no body.
    pub(crate) async fn press(&self, path: &str) -> TestResponse {
        self.send(Method::POST, path, &[], None).await
    }

    pub(crate) async fn post_text(
        &self,
        path: &str,
        media: &str,
        body: impl Into<String>,
    ) -> TestResponse {
        self.send(
            Method::POST,
            path,
            &[("content-type", media)],
            Some(body.into()),
        )
        .await
    }

    /// A request with additional headers, which override the client's own.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> TestResponse {
        let mut all = HeaderMap::new();
        if !self.key.is_empty() {
            let key = format!("Bearer {}", self.key);
            all.insert("authorization", HeaderValue::try_from(key).unwrap());
        }
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).unwrap();
            all.insert(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.base))
            .headers(all);
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.expect("a response");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        TestResponse {
            status,
            headers,
            text: response.text().await.expect("a complete body"),
        }
    }
}

impl TestResponse {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map(|value| value.to_str().unwrap())
            .unwrap_or_default()
    }

    /// The JSON body; the response must have this status.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        if self.text.is_empty() {
            Value::Null
        } else {
            self.json()
        }
    }

    /// The pointers and codes of a problem; it must be complete and have this status and code.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Vec<(String, String)> {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:harkara:problem:{code}"));
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        for member in ["title", "detail", "instance", "request_id"] {
            assert!(
                problem[member]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{problem}"
            );
        }
        let retry = [
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::TOO_MANY_REQUESTS,
        ]
        .iter()
        .any(|code| code.as_u16() == status)
            || code == "idempotency_in_progress";
        assert_eq!(self.headers.contains_key("retry-after"), retry);
        let errors = problem["errors"].as_array().expect("errors");
        errors
            .iter()
            .map(|error| {
                let word = |name: &str| error[name].as_str().expect("a word").to_owned();
                assert!(!word("detail").is_empty());
                (word("pointer"), word("code"))
            })
            .collect()
    }
}
