//! The outbound HTTP client. The parent module documents its guarantees.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method};
use ipnet::IpNet;
use moka::future::Cache;
use reqwest::dns::Resolve;
use reqwest::redirect::Policy;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use url::{Host, Url};

use super::dns::{Guard, GuardedResolver, Reach, SystemResolver};
use super::error::{EgressError, EgressSetupError, Refusal};
use super::identity::ClientIdentity;
use super::response::{BODY_LIMIT, EgressResponse, retained_headers};
use super::timeout::{CONNECT_TIMEOUT, MAX_TIMEOUT};
use super::tls;

/// Idle connections kept per host: the default concurrency of a worker's largest queue.
const MAX_IDLE_PER_HOST: usize = 256;

/// How long an idle connection is kept. Short, because tenants have many hosts.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Identities whose connections are kept; the least used are evicted first.
const MAX_IDENTITIES: u64 = 256;

/// How long the connections of an unused identity are kept.
const IDENTITY_IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Headers that belong to the connection: those that frame and route a message (RFC 9112 §3.2, §6),
/// apply to the next hop only (RFC 9110 §7.6.1, §11.7) or change the exchange (RFC 9110 §10.1.1,
/// RFC 7540 §3.2.1). A caller who could set them could smuggle a second request, or reach another
/// host behind the receiver's proxy.
pub const REFUSED_HEADERS: [&str; 13] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "http2-settings",
];

/// A request to an address that a tenant controls.
///
/// It has no `Debug`: URL, headers and body can contain secrets.
pub struct EgressRequest<'a> {
    /// Any method but `CONNECT`.
    pub method: Method,
    /// An absolute `https` or `http` URL.
    pub url: &'a str,
    /// Headers to send; none of [`REFUSED_HEADERS`].
    pub headers: HeaderMap,
    /// The body; empty for none.
    pub body: Bytes,
    /// From the start of the request to the end of the response; at most [`MAX_TIMEOUT`].
    pub timeout: Duration,
    /// The client certificate for receivers that require mutual TLS.
    pub identity: Option<&'a ClientIdentity>,
}

/// The client for requests to addresses that a tenant controls. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Egress {
    /// Guards https on ports 80 and 443.
    public: Guard,
    /// Guards plain HTTP and other ports, which can reach only addresses the operator allowed.
    allowed: Guard,
    resolver: Arc<dyn Resolve>,
    tls: ClientConfig,
    anonymous: Clients,
    /// Clients by fingerprint of the identity: identities never share connections.
    by_identity: Cache<[u8; 32], Clients>,
}

/// One HTTP client per guard, with the guard in its resolver.
#[derive(Clone)]
struct Clients {
    public: reqwest::Client,
    allowed: reqwest::Client,
}

impl Egress {
    /// A client that can reach public addresses, and the private ones in `allow`.
    ///
    /// # Errors
    /// [`EgressSetupError`] when TLS or the HTTP client cannot be set up.
    pub fn new(allow: Vec<IpNet>) -> Result<Self, EgressSetupError> {
        Self::with(allow, tls::client_config()?, Arc::new(SystemResolver))
    }

    /// As [`new`](Self::new), but trusts only certificates signed by `authority` (PEM).
    ///
    /// # Errors
    /// As [`new`](Self::new), and when `authority` is not a certificate.
    #[cfg(any(test, feature = "testing"))]
    pub fn trusting(allow: Vec<IpNet>, authority: &str) -> Result<Self, EgressSetupError> {
        Self::with(
            allow,
            tls::config_trusting(authority)?,
            Arc::new(SystemResolver),
        )
    }

    pub(super) fn with(
        allow: Vec<IpNet>,
        tls: ClientConfig,
        resolver: Arc<dyn Resolve>,
    ) -> Result<Self, EgressSetupError> {
        let allow: Arc<[IpNet]> = allow.into();
        let guard = |reach| Guard {
            allow: allow.clone(),
            reach,
        };
        let (public, allowed) = (guard(Reach::Public), guard(Reach::Allowed));
        Ok(Self {
            anonymous: Clients::new([&public, &allowed], &resolver, &tls)?,
            by_identity: Cache::builder()
                .max_capacity(MAX_IDENTITIES)
                .time_to_idle(IDENTITY_IDLE_TIMEOUT)
                .build(),
            public,
            allowed,
            resolver,
            tls,
        })
    }

    /// Checks a URL without using the network, before a resource stores it.
    ///
    /// A host name can still resolve to a forbidden address when it is called.
    ///
    /// # Errors
    /// [`EgressError::InvalidUrl`] or [`EgressError::Refused`].
    pub fn check(&self, url: &str) -> Result<(), EgressError> {
        self.route(url).map(|_| ())
    }

    /// Sends a request and reads the response, at most [`BODY_LIMIT`] bytes of its body.
    ///
    /// Any status is a response, including redirects. A body that does not arrive in time is a
    /// timeout, even if its status was received.
    ///
    /// # Errors
    /// [`EgressError`]; [`EgressError::is_terminal`] reports whether another attempt is pointless.
    pub async fn send(&self, request: EgressRequest<'_>) -> Result<EgressResponse, EgressError> {
        let (guard, url) = self.route(request.url)?;
        if request.method == Method::CONNECT {
            return Err(Refusal::Method.into());
        }
        if let Some(name) = REFUSED_HEADERS
            .iter()
            .find(|name| request.headers.contains_key(**name))
        {
            return Err(EgressError::InvalidHeader((*name).to_owned()));
        }
        let limit = request.timeout.min(MAX_TIMEOUT);
        let clients = match request.identity {
            None => self.anonymous.clone(),
            Some(identity) => self.clients_of(identity).await?,
        };
        let call = clients
            .for_guard(guard)
            .request(request.method, url)
            .headers(request.headers)
            .body(request.body);
        // Covers everything: slow name resolution, a slow handshake and a slow body.
        tokio::time::timeout(limit, exchange(call))
            .await
            .unwrap_or(Err(EgressError::Timeout { limit }))
    }

    /// The clients that present this identity.
    async fn clients_of(&self, identity: &ClientIdentity) -> Result<Clients, EgressError> {
        let make = async {
            let tls = tls::with_identity(&self.tls, identity);
            Clients::new([&self.public, &self.allowed], &self.resolver, &tls)
        };
        self.by_identity
            .try_get_with(identity.fingerprint, make)
            .await
            .map_err(|error| EgressError::Tls(error.to_string()))
    }

    /// Checks the URL and selects its guard. Hosts written as addresses are checked here, since the
    /// connector does not pass them to the resolver.
    fn route(&self, url: &str) -> Result<(&Guard, Url), EgressError> {
        let url = Url::parse(url).map_err(|error| EgressError::InvalidUrl(error.to_string()))?;
        let guard = match (url.scheme(), url.port_or_known_default()) {
            ("https", Some(80 | 443)) => &self.public,
            ("https" | "http", _) => &self.allowed,
            _ => return Err(Refusal::Scheme.into()),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::UserInfo.into());
        }
        match url.host() {
            Some(Host::Ipv4(address)) => guard.check(address.into())?,
            Some(Host::Ipv6(address)) => guard.check(address.into())?,
            Some(Host::Domain(name)) if ServerName::try_from(name).is_err() => {
                return Err(EgressError::InvalidUrl(
                    "the host is not a DNS name".to_owned(),
                ));
            }
            // Without any allowed network no address can pass, so the name need not be resolved.
            Some(Host::Domain(_)) if guard.is_closed() => {
                return Err(Refusal::NotAllowed.into());
            }
            Some(Host::Domain(_)) => {}
            None => return Err(EgressError::InvalidUrl("the host is missing".to_owned())),
        }
        Ok((guard, url))
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress")
            .field("allow", &self.allowed.allow)
            .finish_non_exhaustive()
    }
}

impl Clients {
    fn new(
        guards: [&Guard; 2],
        resolver: &Arc<dyn Resolve>,
        tls: &ClientConfig,
    ) -> Result<Self, EgressSetupError> {
        let [public, allowed] = guards.map(|guard| {
            let resolver = GuardedResolver {
                inner: resolver.clone(),
                guard: guard.clone(),
            };
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .dns_resolver(Arc::new(resolver))
                .redirect(Policy::none())
                .no_proxy()
                .referer(false)
                .user_agent(concat!("Harkara/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
                .pool_idle_timeout(IDLE_TIMEOUT)
                .build()
        });
        Ok(Self {
            public: public?,
            allowed: allowed?,
        })
    }

    const fn for_guard(&self, guard: &Guard) -> &reqwest::Client {
        match guard.reach {
            Reach::Public => &self.public,
            Reach::Allowed => &self.allowed,
        }
    }
}

/// Sends the request and reads the retained part of the response.
async fn exchange(call: reqwest::RequestBuilder) -> Result<EgressResponse, EgressError> {
    let started = Instant::now();
    let mut response = call.send().await?;
    let address = response.remote_addr().map(|socket| socket.ip());
    let mut body = Vec::new();
    let mut truncated = false;
    while !truncated && let Some(chunk) = response.chunk().await? {
        let remaining = BODY_LIMIT - body.len();
        truncated = chunk.len() > remaining;
        // A chunk shorter than the remaining space is taken whole.
        body.extend_from_slice(chunk.get(..remaining).unwrap_or(&chunk));
    }
    Ok(EgressResponse {
        status: response.status(),
        headers: retained_headers(response.headers()),
        body,
        truncated,
        address,
        duration: started.elapsed(),
    })
}
