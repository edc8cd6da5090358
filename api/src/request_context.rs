//! Context of a request: its id, its trace, the client's address.
//!
//! Headers without the expected form are ignored.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use harkara_queue::job::Trace;
use ipnet::IpNet;
use uuid::Uuid;

/// `X-Request-Id`.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// `traceparent` (W3C Trace Context).
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Id of a request in responses, logs and jobs.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(Arc<str>);

impl RequestId {
    /// The id in the header, if it is 1 to 128 visible ASCII characters, else a new one.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let received = headers
            .get(REQUEST_ID)
            .and_then(|value| value.to_str().ok())
            .filter(|text| {
                (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
            });
        Self(received.map_or_else(|| Uuid::now_v7().to_string().into(), Arc::from))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as a header's value.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0).ok()
    }
}

/// `X-Forwarded-For`.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Address of the client; `None` when the request did not come over a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientAddress(pub(crate) Option<IpAddr>);

impl ClientAddress {
    /// The peer of the connection. If that is a trusted proxy, the last address in `X-Forwarded-For` that is
    /// not one: any client can forge the addresses before it.
    pub(crate) fn from_request(request: &Request, proxies: &[IpNet]) -> Self {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map(|ConnectInfo(peer)| peer.ip().to_canonical());
        let is_proxy = |address: &IpAddr| proxies.iter().any(|proxy| proxy.contains(address));
        let Some(proxy) = peer.filter(is_proxy) else {
            return Self(peer);
        };
        let mut last = proxy;
        let values = request.headers().get_all(FORWARDED_FOR).iter();
        for part in values.rev().flat_map(|value| {
            let text = value.to_str().unwrap_or_default();
            text.rsplit(',').map(str::trim)
        }) {
            // No trusted proxy wrote this part, so nothing before it is reliable either.
            let Some(address) = forwarded(part) else {
                break;
            };
            last = address;
            if !is_proxy(&address) {
                break;
            }
        }
        Self(Some(last))
    }
}

/// An address, with or without a port.
fn forwarded(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
    let address: IpAddr = text.parse().or_else(|_| with_port()).ok()?;
    Some(address.to_canonical())
}

/// The extractor of the trace that jobs of this request carry.
#[derive(Debug)]
pub(crate) struct TraceContext(pub(crate) Trace);

impl<S: Send + Sync> FromRequestParts<S> for TraceContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(Trace {
            traceparent: traceparent(&parts.headers),
            request_id: parts
                .extensions
                .get::<RequestId>()
                .map(|id| id.as_str().to_owned()),
        }))
    }
}

fn traceparent(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    // Repeated headers are ambiguous.
    let (Some(only), None) = (values.next(), values.next()) else {
        return None;
    };
    let text = only.to_str().ok()?;
    trace_id(text).map(|_| text.to_owned())
}

/// The 32 hexadecimal digits that name the trace of a valid `traceparent`.
pub(crate) fn trace_id(traceparent: &str) -> Option<&str> {
    let is_hex = |text: &str, digits: usize| {
        text.len() == digits
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let is_id = |text: &str, digits| is_hex(text, digits) && text.bytes().any(|byte| byte != b'0');
    let mut parts = traceparent.split('-');
    let (version, trace, parent, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // Later versions may append parts; version 00 has exactly four.
    let fits = is_hex(version, 2)
        && version != "ff"
        && (version != "00" || parts.next().is_none())
        && is_id(trace, 32)
        && is_id(parent, 16)
        && is_hex(flags, 2)
        && traceparent.len() <= 256;
    fits.then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn valid_traceparent_yields_its_trace_id() {
        for text in [
            format!("00-{TRACE}-00f067aa0ba902b7-01"),
            format!("cc-{TRACE}-00f067aa0ba902b7-01-what-the-future-will-be-like"),
        ] {
            assert_eq!(trace_id(&text), Some(TRACE), "{text}");
        }
        for text in [
            String::new(),
            TRACE.to_owned(),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("00-{TRACE}-00f067aa0ba902b7"),
            format!("00-{TRACE}-00f067aa0ba902b7-1"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
        ] {
            assert_eq!(trace_id(&text), None, "{text}");
        }
    }

    #[test]
    fn forwarded_address_is_trusted_only_from_trusted_proxies() {
        let of = |peer: &str, forwarded: &[&str]| {
            let mut request = Request::new(axum::body::Body::empty());
            let peer: SocketAddr = peer.parse().unwrap();
            request.extensions_mut().insert(ConnectInfo(peer));
            for value in forwarded {
                let value = HeaderValue::from_str(value).unwrap();
                request.headers_mut().append(FORWARDED_FOR, value);
            }
            let proxies = ["10.0.0.0/8".parse().unwrap()];
            let address = ClientAddress::from_request(&request, &proxies).0;
            address
                .map(|address| address.to_string())
                .unwrap_or_default()
        };
        for (peer, forwarded, address) in [
            ("192.0.2.1:5", &["198.51.100.1"][..], "192.0.2.1"),
            ("[::ffff:192.0.2.1]:5", &[], "192.0.2.1"),
            ("10.0.0.1:5", &[], "10.0.0.1"),
            ("10.0.0.1:5", &["198.51.100.1"], "198.51.100.1"),
            (
                "10.0.0.1:5",
                &["1.2.3.4, 198.51.100.1, 10.9.9.9"],
                "198.51.100.1",
            ),
            (
                "10.0.0.1:5",
                &["1.2.3.4", "198.51.100.1:80"],
                "198.51.100.1",
            ),
            ("10.0.0.1:5", &["1.2.3.4, nonsense, 10.9.9.9"], "10.9.9.9"),
            ("10.0.0.1:5", &["[2001:db8::1]:443"], "2001:db8::1"),
        ] {
            assert_eq!(of(peer, forwarded), address, "{peer} {forwarded:?}");
        }
        let unconnected = Request::new(axum::body::Body::empty());
        assert_eq!(ClientAddress::from_request(&unconnected, &[]).0, None);
    }

    #[test]
    fn request_id_must_be_short_and_visible() {
        let of = |text: &str| {
            let value = HeaderValue::from_bytes(text.as_bytes());
            let headers = value.into_iter().map(|value| (REQUEST_ID, value));
            RequestId::from_headers(&headers.collect())
                .as_str()
                .to_owned()
        };
        let longest = "x".repeat(128);
        for taken in ["a", "req-1/2:é".trim_end_matches('é'), longest.as_str()] {
            assert_eq!(of(taken), taken);
        }
        for replaced in ["", "a b", "a\tb", "é", &"x".repeat(129)] {
            assert!(Uuid::parse_str(&of(replaced)).is_ok(), "{replaced}");
        }
    }
}
