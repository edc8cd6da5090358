//! Room: from a name to the addresses that may be connected to.
//! Takes: a name, the resolver, the operator's networks, and how far this client may reach.
//! Gives: the addresses that pass, and no other, to the connector.
//! Never: caches, or lets a caller choose an address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address::is_forbidden;
use super::error::{DnsFailure, Refusal};

/// How far a client may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Ordinary public addresses and those the operator allows.
    Public,
    /// Only those the operator allows: for plain HTTP and for unusual ports.
    Allowed,
}

/// Judges addresses, written in a URL or found for a name.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    pub(super) allow: Arc<[IpNet]>,
    pub(super) reach: Reach,
}

impl Guard {
    /// Whether no address at all can pass.
    pub(super) fn is_closed(&self) -> bool {
        self.reach == Reach::Allowed && self.allow.is_empty()
    }

    /// Whether this address may be connected to.
    ///
    /// # Errors
    /// The refusal to tell the caller.
    pub(super) fn admit(&self, address: IpAddr) -> Result<(), Refusal> {
        // A network of the operator's is written in plain form; the address may not be.
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

/// The machine's resolver.
pub(super) struct SystemNames;

impl Resolve for SystemNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // The connector puts the URL's port in place of 0.
            let found = tokio::net::lookup_host((name.as_str(), 0))
                .await
                .map_err(DnsFailure)?;
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

/// A resolver that lets only those addresses through that pass its guard.
pub(super) struct GuardedNames {
    pub(super) names: Arc<dyn Resolve>,
    pub(super) guard: Guard,
}

impl Resolve for GuardedNames {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.guard.clone();
        let found = self.names.resolve(name);
        Box::pin(async move {
            let found = found.await?;
            let mut refusal = None;
            let admit = |address: &SocketAddr| {
                guard
                    .admit(address.ip())
                    .map_err(|why| refusal = Some(why))
                    .is_ok()
            };
            let admitted: Vec<SocketAddr> = found.filter(admit).collect();
            match refusal {
                Some(refusal) if admitted.is_empty() => Err(refusal.into()),
                _ => Ok(Box::new(admitted.into_iter()) as Addrs),
            }
        })
    }
}
