//! Room: an application's side of the API.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::Value;

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body; null when it is no JSON.
    pub body: Value,
}

impl Answer {
    /// The body, where the status is a success.
    ///
    /// # Panics
    /// When it is not.
    pub fn ok(self) -> Value {
        assert!(
            (200..300).contains(&self.status),
            "answered {}: {}",
            self.status,
            self.body
        );
        self.body
    }

    /// A text member of the body.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn text(&self, member: &str) -> String {
        let text = self.body[member].as_str();
        text.unwrap_or_else(|| panic!("no `{member}` in {}", self.body))
            .to_owned()
    }
}

/// A client with one key.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
}

impl Client {
    /// A client of the API at `address`.
    ///
    /// # Panics
    /// When no HTTP client can be made.
    #[must_use]
    pub fn new(address: SocketAddr, key: &str) -> Self {
        let tls = harkara_shared::egress::client_config().unwrap();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build()
            .unwrap();
        Self {
            http,
            base: format!("http://{address}"),
            key: key.to_owned(),
        }
    }

    /// GET; `Err` when there is no answer at all.
    ///
    /// # Errors
    /// When the API cannot be reached.
    pub async fn try_get(&self, path: &str) -> reqwest::Result<Answer> {
        Self::send(
            self.http
                .get(format!("{}{path}", self.base))
                .bearer_auth(&self.key),
        )
        .await
    }

    /// POST of JSON; `Err` when there is no answer at all.
    ///
    /// # Errors
    /// When the API cannot be reached.
    pub async fn try_post(&self, path: &str, body: &Value) -> reqwest::Result<Answer> {
        let request = self
            .http
            .post(format!("{}{path}", self.base))
            .bearer_auth(&self.key)
            .header("content-type", "application/json")
            .body(body.to_string());
        Self::send(request).await
    }

    /// POST of text that claims to be JSON.
    ///
    /// # Panics
    /// When the API cannot be reached.
    pub async fn post_text(&self, path: &str, body: String) -> Answer {
        let request = self
            .http
            .post(format!("{}{path}", self.base))
            .bearer_auth(&self.key)
            .header("content-type", "application/json")
            .body(body);
        Self::send(request).await.expect("the API answers")
    }

    /// GET.
    ///
    /// # Panics
    /// When the API cannot be reached.
    pub async fn get(&self, path: &str) -> Answer {
        self.try_get(path).await.expect("the API answers")
    }

    /// PATCH of JSON.
    ///
    /// # Panics
    /// When the API cannot be reached.
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        let request = self
            .http
            .patch(format!("{}{path}", self.base))
            .bearer_auth(&self.key)
            .header("content-type", "application/json")
            .body(body.to_string());
        Self::send(request).await.expect("the API answers")
    }

    /// POST of JSON.
    ///
    /// # Panics
    /// When the API cannot be reached.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.try_post(path, body).await.expect("the API answers")
    }

    async fn send(request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        Ok(Answer {
            status,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
        })
    }
}
