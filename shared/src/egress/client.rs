//! Room: the outbound HTTP client.
//! Takes: a request, and perhaps the identity to make it with.
//! Gives: the answer, or why there is none.
//! Never: see the parent module.

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

use super::dns::{Guard, GuardedNames, Reach, SystemNames};
use super::error::{EgressError, EgressSetupError, Refusal};
use super::identity::ClientIdentity;
use super::response::{BODY_LIMIT, EgressResponse, kept};
use super::timeout::{CONNECT_TIMEOUT, MAX_TIMEOUT};
use super::tls;

/// Connections kept to one host: as many as the busiest queue of a worker has jobs by default.
const IDLE_PER_HOST: usize = 256;

/// How long an idle connection is kept. Tenants have many hosts, so not long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Identities whose connections are kept; the least used go first.
const IDENTITIES: u64 = 256;

/// How long an identity that is not used keeps its place.
const IDENTITY_IDLE: Duration = Duration::from_secs(5 * 60);

/// Headers that are the connection's business: what frames and routes a message (RFC 9112 §3.2, §6),
/// what is meant for the next hop only (RFC 9110 §7.6.1, §11.7) and what changes the exchange (RFC
/// 9110 §10.1.1, RFC 7540 §3.2.1). A caller who could set them could smuggle a second request or be
/// routed elsewhere behind the receiver's proxy.
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

/// A request to an address that a tenant can steer.
///
/// It has no `Debug`: URL, headers and body may hold secrets.
pub struct EgressRequest<'a> {
    /// The method; not `CONNECT`.
    pub method: Method,
    /// An absolute URL.
    pub url: &'a str,
    /// Headers to add; none of those that belong to the connection.
    pub headers: HeaderMap,
    /// The body, empty for none.
    pub body: Bytes,
    /// From the start of the request to the end of the answer; [`MAX_TIMEOUT`] at most.
    pub timeout: Duration,
    /// The certificate to show to a receiver that asks for one.
    pub identity: Option<&'a ClientIdentity>,
}

/// The one client for requests that a tenant can steer. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Egress {
    /// For https on its usual ports.
    public: Guard,
    /// For plain HTTP and unusual ports, which lead only where the operator allows.
    allowed: Guard,
    names: Arc<dyn Resolve>,
    tls: ClientConfig,
    anonymous: Clients,
    /// Clients that show an identity, by its fingerprint: connections are never shared between two.
    identified: Cache<[u8; 32], Clients>,
}

/// A client for each guard, with the guard in its resolver.
#[derive(Clone)]
struct Clients {
    public: reqwest::Client,
    allowed: reqwest::Client,
}

impl Egress {
    /// A client that may reach public addresses, and those in `allow` although they are private.
    ///
    /// # Errors
    /// [`EgressSetupError`] when TLS or the client below cannot be set up.
    pub fn new(allow: Vec<IpNet>) -> Result<Self, EgressSetupError> {
        Self::with(allow, tls::client_config()?, Arc::new(SystemNames))
    }

    /// The same, trusting the certificates that `authority` signs (PEM) and no others.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when `authority` is no certificate.
    #[cfg(any(test, feature = "testing"))]
    pub fn trusting(allow: Vec<IpNet>, authority: &str) -> Result<Self, EgressSetupError> {
        Self::with(
            allow,
            tls::config_trusting(authority)?,
            Arc::new(SystemNames),
        )
    }

    pub(super) fn with(
        allow: Vec<IpNet>,
        tls: ClientConfig,
        names: Arc<dyn Resolve>,
    ) -> Result<Self, EgressSetupError> {
        let allow: Arc<[IpNet]> = allow.into();
        let guard = |reach| Guard {
            allow: allow.clone(),
            reach,
        };
        let (public, allowed) = (guard(Reach::Public), guard(Reach::Allowed));
        Ok(Self {
            anonymous: Clients::new([&public, &allowed], &names, &tls)?,
            identified: Cache::builder()
                .max_capacity(IDENTITIES)
                .time_to_idle(IDENTITY_IDLE)
                .build(),
            public,
            allowed,
            names,
            tls,
        })
    }

    /// Judges a URL as far as that goes without the network, for a resource that is to store it.
    ///
    /// A host name may still resolve to a refused address when it is called.
    ///
    /// # Errors
    /// [`EgressError::InvalidUrl`] or [`EgressError::Refused`].
    pub fn check(&self, url: &str) -> Result<(), EgressError> {
        self.route(url).map(|_| ())
    }

    /// Makes a request and reads the answer, at most [`BODY_LIMIT`] bytes of its body.
    ///
    /// Any status is an answer, redirects included. A body that does not arrive in time is a
    /// timeout, although its status was known.
    ///
    /// # Errors
    /// [`EgressError`]; [`EgressError::is_terminal`] says whether another attempt is in vain.
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
            Some(identity) => self.identified(identity).await?,
        };
        let call = clients
            .behind(guard)
            .request(request.method, url)
            .headers(request.headers)
            .body(request.body);
        // Around everything: a slow name, a slow handshake and a body that trickles alike.
        tokio::time::timeout(limit, exchange(call))
            .await
            .unwrap_or(Err(EgressError::Timeout { limit }))
    }

    /// The clients that show this identity.
    async fn identified(&self, identity: &ClientIdentity) -> Result<Clients, EgressError> {
        let make = async {
            let tls = tls::showing(&self.tls, identity);
            Clients::new([&self.public, &self.allowed], &self.names, &tls)
        };
        self.identified
            .try_get_with(identity.fingerprint, make)
            .await
            .map_err(|error| EgressError::Tls(error.to_string()))
    }

    /// Which guard watches over the call, if it may be made. Hosts written as addresses are judged here, since the
    /// connector does not ask the resolver about them.
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
            Some(Host::Ipv4(address)) => guard.admit(address.into())?,
            Some(Host::Ipv6(address)) => guard.admit(address.into())?,
            Some(Host::Domain(name)) if ServerName::try_from(name).is_err() => {
                return Err(EgressError::InvalidUrl(
                    "the host is not a DNS name".to_owned(),
                ));
            }
            // Without a single allowed network there is no need to ask for the name.
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
        names: &Arc<dyn Resolve>,
        tls: &ClientConfig,
    ) -> Result<Self, EgressSetupError> {
        let [public, allowed] = guards.map(|guard| {
            let names = GuardedNames {
                names: names.clone(),
                guard: guard.clone(),
            };
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .dns_resolver(Arc::new(names))
                .redirect(Policy::none())
                .no_proxy()
                .referer(false)
                .user_agent(concat!("Harkara/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_max_idle_per_host(IDLE_PER_HOST)
                .pool_idle_timeout(IDLE_TIMEOUT)
                .build()
        });
        Ok(Self {
            public: public?,
            allowed: allowed?,
        })
    }

    const fn behind(&self, guard: &Guard) -> &reqwest::Client {
        match guard.reach {
            Reach::Public => &self.public,
            Reach::Allowed => &self.allowed,
        }
    }
}

/// Sends the call and reads the answer as far as it is kept.
async fn exchange(call: reqwest::RequestBuilder) -> Result<EgressResponse, EgressError> {
    let started = Instant::now();
    let mut response = call.send().await?;
    let address = response.remote_addr().map(|socket| socket.ip());
    let mut body = Vec::new();
    let mut truncated = false;
    while !truncated && let Some(chunk) = response.chunk().await? {
        let room = BODY_LIMIT - body.len();
        truncated = chunk.len() > room;
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
    }
    Ok(EgressResponse {
        status: response.status(),
        headers: kept(response.headers()),
        body,
        truncated,
        address,
        duration: started.elapsed(),
    })
}
