//! Authentication and authorization of requests.
//!
//! [`authenticate()`] identifies the caller (API key or session) or answers with a problem of status 401, 403
//! or 404. [`Authorized`] states in a handler's signature which scope the handler requires.

mod authenticate;
mod caller;
mod keyring;
mod person;
mod requirement;

pub(crate) use authenticate::authenticate;
pub(crate) use caller::{Caller, Who};
pub(crate) use keyring::Keyring;
pub(crate) use person::{AnonymousActor, Person};
pub(crate) use requirement::{
    Authorized, Confirmed, OrPlatformAdmin, PlatformOnly, Requirement, scope,
};
