//! Users: sign-in, permissions and sessions.

mod confirmation;
mod grants;
mod oidc;
pub(crate) mod pages;
mod permissions;
mod sessions;
mod sign_in;

use harkara_accounts::users::{DEFAULT_LIFE, NewUser, create_link, create_user};
use harkara_accounts::{Scope, Tenant, ensure_platform};
use harkara_shared::database::{TenantTx, query, query_scalar};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Client, Platform, TestResponse, tester};

pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// A browser with a signed-in user.
#[derive(Clone)]
pub(crate) struct Browser {
    client: Client,
    /// `name=value`.
    pub(crate) cookie: String,
    pub(crate) csrf: String,
    /// The user's id.
    pub(crate) user: String,
}

impl Browser {
    /// The browser that received this sign-in response.
    pub(crate) async fn of(client: &Client, response: &TestResponse) -> Self {
        let mut browser = Self {
            client: client.with_key(""),
            cookie: cookie(response),
            csrf: String::new(),
            user: String::new(),
        };
        let session = browser.get("/v1/session").await.expect(200);
        browser.csrf = session["csrf_token"].as_str().unwrap().to_owned();
        browser.user = session["user"]["id"].as_str().unwrap().to_owned();
        browser
    }

    pub(crate) async fn get(&self, path: &str) -> TestResponse {
        self.send(Method::GET, path, &[], None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> TestResponse {
        self.change(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> TestResponse {
        self.change(Method::DELETE, path, None).await
    }

    /// A request that changes data, as the platform's own pages send it.
    pub(crate) async fn change(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> TestResponse {
        let mut headers = vec![("x-csrf-token", self.csrf.as_str())];
        if body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        self.send(method, path, &headers, body.map(Value::to_string))
            .await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> TestResponse {
        let mut all = vec![("cookie", self.cookie.as_str())];
        all.extend_from_slice(headers);
        self.client.send(method, path, &all, body).await
    }
}

/// The cookie set by a response, in the form a browser sends back.
pub(crate) fn cookie(response: &TestResponse) -> String {
    let set = response.header("set-cookie");
    assert!(
        !set.is_empty(),
        "no cookie: {} {}",
        response.status,
        response.text
    );
    set.split(';').next().unwrap().to_owned()
}

impl Platform {
    /// Creates a user of a tenant who signs in by a link and sets a password.
    pub(crate) async fn signed_in_user(&self, tenant: &Tenant, email: &str, role: &str) -> Browser {
        let browser = self.visitor(tenant, email, role).await;
        let body = json!({ "password": PASSWORD });
        browser
            .change(Method::PUT, "/v1/session/password", Some(&body))
            .await
            .expect(204);
        browser
    }

    /// The same without a password.
    pub(crate) async fn visitor(&self, tenant: &Tenant, email: &str, role: &str) -> Browser {
        let link = self.link(tenant, email, role).await;
        let response = self.form(&link, "").await;
        assert_eq!(response.status, 303, "{}", response.text);
        Browser::of(&self.client, &response).await
    }

    /// The path of a sign-in link for a new user.
    pub(crate) async fn link(&self, tenant: &Tenant, email: &str, role: &str) -> String {
        let mut tx = TenantTx::begin(&self.pool, tenant.id).await.unwrap();
        let new = NewUser {
            email: email.to_owned(),
            name: email.to_owned(),
            role: role.to_owned(),
            expires_at: None,
            reason: None,
        };
        let user = create_user(&mut tx, &tester(), new).await.unwrap();
        let link = create_link(&mut tx, &tester(), user.id, DEFAULT_LIFE)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        link.url("")
    }

    /// Posts a form without a cookie.
    pub(crate) async fn form(&self, path: &str, fields: &str) -> TestResponse {
        let media = "application/x-www-form-urlencoded";
        self.client
            .with_key("")
            .post_text(path, media, fields)
            .await
    }

    /// Signs in with a password.
    pub(crate) async fn sign_in(&self, body: &Value) -> TestResponse {
        self.client.with_key("").post("/v1/sessions", body).await
    }

    /// The built-in tenant.
    pub(crate) async fn platform(&self) -> Tenant {
        ensure_platform(&self.pool).await.unwrap()
    }

    /// Executes an SQL statement of the test.
    pub(crate) async fn sql(&self, sql: &'static str) -> u64 {
        query(sql)
            .execute(&self.pool)
            .await
            .unwrap()
            .rows_affected()
    }

    /// The number of audit entries with this action.
    pub(crate) async fn audit_count(&self, action: &str) -> i64 {
        query_scalar("select count(*) from app.audit_log where action = $1")
            .bind(action.to_owned())
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }
}

/// All scopes except those of the platform.
pub(crate) fn tenant_scopes() -> Vec<Scope> {
    let mut all = Scope::ALL.to_vec();
    all.retain(|scope| *scope != Scope::PlatformAdmin);
    all
}
