//! Room: how often somebody may try to sign in.
//! Takes: an address and an account. Gives: leave to try, or a problem of status 429.
//! Never: asks whether the account is there.

use std::net::IpAddr;

use harkara_shared::id::UserId;

use crate::ApiState;
use crate::problem::Problem;

pub(crate) async fn charge(_: &ApiState, _: Option<IpAddr>, _: &str) -> Result<(), Problem> {
    Ok(())
}

pub(crate) async fn charge_person(_: &ApiState, _: UserId) -> Result<(), Problem> {
    Ok(())
}

pub(crate) async fn charge_address(_: &ApiState, _: Option<IpAddr>) -> Result<(), Problem> {
    Ok(())
}
