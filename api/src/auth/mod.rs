//! Room: who calls, and whether they are let in.
//! Takes: a request. Gives: a [`Caller`] in its extensions, or a problem of status 401, 403 or 404;
//! whether the caller may do a thing.
//! Never: runs a handler for somebody who is not known, or keeps the text of a key.

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
