//! Authentication and authorization of requests.
//!
//! [`authenticate()`] identifies the caller (API key or session) or returns a problem of status 401,
//! 403 or 404. [`Authorized`] states in a handler's signature which scope the handler requires.

mod authenticate;
mod caller;
mod keyring;
mod requirement;
mod signed_in_user;

pub(crate) use authenticate::authenticate;
pub(crate) use caller::{Caller, Principal};
pub(crate) use keyring::Keyring;
pub(crate) use requirement::{
    Authorized, Confirmed, OrPlatformAdmin, PlatformOnly, Requirement, scope,
};
pub(crate) use signed_in_user::{AnonymousActor, SignedInUser};
