//! Room: who calls, and whether they are let in.
//! Takes: a request. Gives: a [`Caller`] in its extensions, or a problem of status 401, 403 or 404;
//! whether the caller may do a thing.
//! Never: runs a handler for somebody who is not known, or keeps the text of a key.

mod admit;
mod caller;
mod keyring;
mod person;

pub(crate) use admit::admit;
pub(crate) use caller::{Caller, Who};
pub(crate) use keyring::Keyring;
pub(crate) use person::{Person, Visitor};
