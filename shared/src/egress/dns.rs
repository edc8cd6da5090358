//! Name resolution for outbound requests.
//!
//! Resolves a name and passes only permitted addresses to the connector. Nothing is cached here, so an
//! address is checked for each new connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address::is_forbidden;
use super::error::{DnsFailure, Refusal};

/// Which addresses a client can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Public addresses and those the operator allowed.
    Public,
    /// Only addresses the operator allowed: for plain HTTP and for other ports than 80 and 443.
    Allowed,
}

/// Checks addresses, written in a URL or found for a name.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    pub(super) allow: Arc<[IpNet]>,
    pub(super) reach: Reach,
}

impl Guard {
    /// Whether no address can pass.
    pub(super) fn is_closed(&self) -> bool {
        self.reach == Reach::Allowed && self.allow.is_empty()
    }

    /// Checks that this address can be connected to.
    ///
    /// # Errors
    /// The reason for the refusal.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), Refusal> {
        // The operator writes networks in plain form; the address can be IPv4-mapped.
        let address = address.to_canonical();
        let allowed = self.allow.iter().any(|net| net.contains(&address));
        match self.reach {
            _ if allowed => Ok(()),
            Reach::Allowed => Err(Refusal::NotAllowed),
            Reach::Public if is_forbidden(address) => Err(Refusal::Address),
            Reach::Public => Ok(()),
        }
    }
}

/// The resolver of the operating system.
pub(super) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // The connector replaces port 0 with the URL's port.
            let found = tokio::net::lookup_host((name.as_str(), 0))
                .await
                .map_err(DnsFailure)?;
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

/// A resolver that returns only addresses that pass its guard.
pub(super) struct GuardedResolver {
    pub(super) inner: Arc<dyn Resolve>,
    pub(super) guard: Guard,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.guard.clone();
        let found = self.inner.resolve(name);
        Box::pin(async move {
            let found = found.await?;
            let mut refusal = None;
            let is_permitted = |address: &SocketAddr| {
                guard
                    .check(address.ip())
                    .map_err(|reason| refusal = Some(reason))
                    .is_ok()
            };
            let permitted: Vec<SocketAddr> = found.filter(is_permitted).collect();
            match refusal {
                Some(refusal) if permitted.is_empty() => Err(refusal.into()),
                _ => Ok(Box::new(permitted.into_iter()) as Addrs),
            }
        })
    }
}
