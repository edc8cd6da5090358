//! Limits on attempts to sign in, per account and per address.
//!
//! An attempt is counted before the account is looked up. The limits hold over all replicas.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::LazyLock;
use std::time::Duration;

use harkara_accounts::{InvalidPolicy, Policies, Policy, Strategy};
use harkara_shared::id::UserId;
use sha2::{Digest as _, Sha256};

use crate::ApiState;
use crate::problem::Problem;

/// Window of both limits.
const WINDOW: Duration = Duration::from_mins(15);

/// Attempts per window for one account, from any address. A user locked out by another person's attempts can still use
/// a link or the provider.
const ACCOUNT_ATTEMPTS: u32 = 10;

/// Attempts per window from one address, which many people may share.
const ADDRESS_ATTEMPTS: u32 = 100;

static ACCOUNT: LazyLock<Checked> = LazyLock::new(|| policies("sign-in", ACCOUNT_ATTEMPTS));
static ADDRESS: LazyLock<Checked> = LazyLock::new(|| policies("address", ADDRESS_ATTEMPTS));

/// Policies of constants; a test checks that they are valid.
type Checked = Result<Policies, InvalidPolicy>;

fn policies(name: &str, quota: u32) -> Checked {
    let policy = Policy::new(name, Strategy::SlidingWindow, quota, 0, WINDOW);
    Policies::new(vec![policy])
}

/// Counts an attempt to sign in to an account.
///
/// # Errors
/// A problem of status 429.
pub(crate) async fn charge(
    state: &ApiState,
    address: Option<IpAddr>,
    email: &str,
) -> Result<(), Problem> {
    charge_address(state, address).await?;
    // Hashed: the text can be of any length, and may be a password entered in the wrong field.
    let digest = Sha256::digest(email.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    charge_one(state, &format!("sign-in:{hex}"), &ACCOUNT).await
}

/// Counts an attempt of a signed-in user to confirm their identity.
pub(crate) async fn charge_confirmation(state: &ApiState, user: UserId) -> Result<(), Problem> {
    charge_one(state, &format!("confirm:{user}"), &ACCOUNT).await
}

/// Counts a sign-in that was started from an address.
pub(crate) async fn charge_address(
    state: &ApiState,
    address: Option<IpAddr>,
) -> Result<(), Problem> {
    match address {
        Some(address) => {
            let subject = format!("sign-in-from:{}", network(address));
            charge_one(state, &subject, &ADDRESS).await
        }
        None => Ok(()),
    }
}

/// The address, or its /64 network for IPv6, of which a single customer has all addresses.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(long) => {
            let [a, b, c, d, ..] = long.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

async fn charge_one(state: &ApiState, subject: &str, policies: &Checked) -> Result<(), Problem> {
    let policies = policies.as_ref().map_err(Problem::internal)?;
    let charge = state.limits().charge(subject, policies).await?;
    if charge.allowed() {
        Ok(())
    } else {
        Err(charge.problem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_counted_per_account_and_per_address() {
        assert!(ACCOUNT.is_ok() && ADDRESS.is_ok());
        for (address, counted) in [
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(network(address).to_string(), counted);
        }
    }
}
