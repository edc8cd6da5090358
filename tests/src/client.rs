//! An HTTP client of the API, as an application uses it.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::Value;

/// A response of the API.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status code.
    pub status: u16,
    /// The response headers.
    pub headers: HeaderMap,
    /// The body; null when it is not JSON.
    pub body: Value,
}

impl Answer {
    /// The body of a successful response.
    ///
    /// # Panics
    /// When the status is not a success.
    pub fn ok(self) -> Value {
        assert!(
            (200..300).contains(&self.status),
            "answered {}: {}",
            self.status,
            self.body
        );
        self.body
    }

    /// A string member of the body.
    ///
    /// # Panics
    /// When the member is missing or not a string.
    #[must_use]
    pub fn text(&self, member: &str) -> String {
        let text = self.body[member].as_str();
        text.unwrap_or_else(|| panic!("no `{member}` in {}", self.body))
            .to_owned()
    }
}

/// A client that authenticates with one key.
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
    /// When the HTTP client cannot be created.
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

    /// Sends a GET request; returns `Err` when there is no response.
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

    /// Sends a POST request with JSON; returns `Err` when there is no response.
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

    /// Sends a POST request with text labelled as JSON.
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

    /// Sends a GET request.
    ///
    /// # Panics
    /// When the API cannot be reached.
    pub async fn get(&self, path: &str) -> Answer {
        self.try_get(path).await.expect("the API answers")
    }

    /// Sends a PATCH request with JSON.
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

    /// Sends a POST request with JSON.
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
