//! Cookies of sessions, and protection against cross-site requests.
//!
//! Reads and sets the cookies, issues CSRF tokens, and checks that a request that changes
//! something comes from our own pages. A cookie alone never authorizes a change.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use harkara_accounts::users::Token;
use harkara_shared::id::SessionId;
use harkara_shared::vault::MasterKeys;
use hmac::Mac as _;
use subtle::{Choice, ConstantTimeEq as _};
use url::Url;

use crate::cursor;
use crate::problem::{Code, Problem};

/// `X-CSRF-Token`: shows that the request comes from a page that can read the session.
pub(crate) const CSRF: HeaderName = HeaderName::from_static("x-csrf-token");

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A cookie of the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cookie {
    /// Holds the session's token.
    Session,
    /// Binds a sign-in at the provider to the browser that started it.
    Flow,
}

impl Cookie {
    /// Name of the cookie. Browsers accept the prefix `__Host-` only from the host itself and over TLS.
    pub(crate) const fn name(self, is_secure: bool) -> &'static str {
        match (self, is_secure) {
            (Self::Session, true) => "__Host-harkara",
            (Self::Session, false) => "harkara",
            (Self::Flow, true) => "__Host-harkara-flow",
            (Self::Flow, false) => "harkara-flow",
        }
    }

    /// Reads the token. A cookie that is sent twice is ignored: another site may have set one of them.
    pub(crate) fn read(self, headers: &HeaderMap, is_secure: bool) -> Option<Token> {
        let name = self.name(is_secure);
        let mut found = headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(cookie::Cookie::split_parse)
            .filter_map(Result::ok)
            .filter(|cookie| cookie.name() == name);
        match (found.next(), found.next()) {
            (Some(only), None) => Token::parse(only.value()),
            _ => None,
        }
    }

    /// The `Set-Cookie` header that sets the token for `life`.
    pub(crate) fn set(self, token: &Token, life: Duration, is_secure: bool) -> HeaderValue {
        self.header(token.expose(), life, is_secure)
    }

    /// The `Set-Cookie` header that removes the cookie.
    pub(crate) fn clear(self, is_secure: bool) -> HeaderValue {
        self.header("", Duration::ZERO, is_secure)
    }

    fn header(self, value: &str, life: Duration, is_secure: bool) -> HeaderValue {
        let (name, life) = (self.name(is_secure), life.as_secs());
        let secure = if is_secure { "; Secure" } else { "" };
        let text =
            format!("{name}={value}; Path=/; Max-Age={life}; HttpOnly; SameSite=Lax{secure}");
        // Base64url and constants are always a valid header value.
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

/// Issues and verifies CSRF tokens.
#[derive(Clone)]
pub(crate) struct Csrf(Arc<[[u8; 32]]>);

impl fmt::Debug for Csrf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Csrf(redacted)")
    }
}

impl Csrf {
    pub(crate) fn new(keys: &MasterKeys) -> Self {
        Self(keys.derive_all("csrf").into())
    }

    /// The CSRF token of a session.
    pub(crate) fn token(&self, session: SessionId) -> String {
        let key = self.0.first().copied().unwrap_or_default();
        BASE64.encode(mac(&key, session))
    }

    /// Whether a text is the CSRF token of the session, under any of the master keys.
    pub(crate) fn verify(&self, session: SessionId, text: &str) -> bool {
        let given = BASE64.decode(text).unwrap_or_default();
        self.0
            .iter()
            .map(|key| mac(key, session).as_slice().ct_eq(&given))
            .fold(Choice::from(0), |any, one| any | one)
            .into()
    }

    /// Checks a request with a session cookie: one that changes something needs a CSRF token and our own origin.
    ///
    /// # Errors
    /// A problem of status 403.
    pub(crate) fn check(
        &self,
        method: &Method,
        headers: &HeaderMap,
        session: SessionId,
        public_url: Option<&Url>,
    ) -> Result<(), Problem> {
        if is_safe(method) {
            return Ok(());
        }
        check_same_site(headers, public_url)?;
        let mut given = headers.get_all(CSRF).iter();
        let token = match (given.next(), given.next()) {
            (Some(only), None) => only.to_str().unwrap_or_default(),
            _ => "",
        };
        if self.verify(session, token) {
            Ok(())
        } else {
            Err(refused(
                "the header X-CSRF-Token is missing or not this session's",
            ))
        }
    }
}

/// Whether the method is safe (RFC 9110 §9.2.1).
pub(crate) fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Rejects a request that a page of another site makes, according to the browser. Without a configured public URL,
/// the `Host` header names our own site.
///
/// # Errors
/// A problem of status 403.
pub(crate) fn check_same_site(
    headers: &HeaderMap,
    public_url: Option<&Url>,
) -> Result<(), Problem> {
    let text = |name: &HeaderName| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or_default())
    };
    let site = text(&SEC_FETCH_SITE);
    if site == Some("cross-site") {
        return Err(refused("the request comes from another site"));
    }
    let Some(origin) = text(&ORIGIN) else {
        return Ok(());
    };
    if origin == "null" && site == Some("same-origin") {
        // One of our pages whose origin is hidden.
        return Ok(());
    }
    let is_own = match public_url {
        Some(url) => url.origin().ascii_serialization() == origin,
        // Without a public URL: the host of the request.
        None => {
            let host = origin.split_once("://").map(|(_, host)| host);
            host.is_some() && host == text(&HOST)
        }
    };
    if is_own {
        Ok(())
    } else {
        Err(refused("the request comes from another origin"))
    }
}

fn refused(detail: &str) -> Problem {
    Problem::new(Code::Csrf, detail)
}

fn mac(key: &[u8; 32], session: SessionId) -> [u8; 32] {
    cursor::mac(key, session.as_uuid().as_bytes())
        .finalize()
        .into_bytes()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn cookie_is_bound_to_its_host_over_tls() {
        let token = Token::generate();
        let text = token.expose();
        let set = |secure| Cookie::Session.set(&token, Duration::from_secs(60), secure);
        assert_eq!(
            set(true),
            format!("__Host-harkara={text}; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure")
        );
        assert_eq!(
            set(false),
            format!("harkara={text}; Path=/; Max-Age=60; HttpOnly; SameSite=Lax")
        );
        assert_eq!(
            Cookie::Session.clear(false),
            "harkara=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
        );
        let sent = headers(&[("cookie", &format!("a=b; __Host-harkara={text}"))]);
        assert_eq!(Cookie::Session.read(&sent, true), Some(token.clone()));
        assert_eq!(Cookie::Session.read(&sent, false), None);
        assert_eq!(Cookie::Flow.read(&sent, true), None);
        for wrong in [
            String::new(),
            "harkara=x".to_owned(),
            format!("harkara={text}; harkara={text}"),
        ] {
            let sent = headers(&[("cookie", &wrong)]);
            assert_eq!(Cookie::Session.read(&sent, false), None, "{wrong}");
        }
    }

    #[test]
    fn csrf_token_belongs_to_one_session_and_survives_a_rotation() {
        let (old, new) = (MasterKeys::generate(), MasterKeys::generate());
        let csrf = |text: &str| Csrf::new(&MasterKeys::parse(text).unwrap());
        let (session, other) = (SessionId::new(), SessionId::new());
        let token = csrf(&old).token(session);
        assert!(csrf(&format!("{new},{old}")).verify(session, &token));
        assert!(!csrf(&old).verify(other, &token));
        assert!(!csrf(&new).verify(session, &token));
        for text in ["", "x", "====", &token[1..]] {
            assert!(!csrf(&old).verify(session, text), "{text}");
        }
    }

    #[test]
    fn request_from_another_site_is_recognized_by_its_headers() {
        let own: Url = "https://jobs.example.com".parse().unwrap();
        for (pairs, may) in [
            (&[][..], true),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("origin", "https://jobs.example.com")], true),
            (&[("origin", "https://jobs.example.com:8443")], false),
            (&[("origin", "http://jobs.example.com")], false),
            (&[("origin", "https://evil.example")], false),
            (&[("origin", "null")], false),
            (
                &[("origin", "null"), ("sec-fetch-site", "same-origin")],
                true,
            ),
            (
                &[("origin", "null"), ("sec-fetch-site", "same-site")],
                false,
            ),
            (
                &[
                    ("origin", "https://evil.example"),
                    ("sec-fetch-site", "same-origin"),
                ],
                false,
            ),
            (
                &[
                    ("origin", "http://127.0.0.1:8080"),
                    ("host", "127.0.0.1:8080"),
                ],
                false,
            ),
            (
                &[
                    ("origin", "http://127.0.0.1:8081"),
                    ("host", "127.0.0.1:8080"),
                ],
                false,
            ),
            (
                &[
                    ("origin", "https://jobs.example.com"),
                    ("sec-fetch-site", "cross-site"),
                ],
                false,
            ),
        ] {
            assert_eq!(
                check_same_site(&headers(pairs), Some(&own)).is_ok(),
                may,
                "{pairs:?}"
            );
        }
        // Without a public URL, the host of the request is our own.
        let named = |origin| headers(&[("origin", origin), ("host", "127.0.0.1:8080")]);
        assert!(check_same_site(&named("http://127.0.0.1:8080"), None).is_ok());
        assert!(check_same_site(&named("http://127.0.0.1:8081"), None).is_err());
    }
}
