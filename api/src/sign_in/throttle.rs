//! Room: how often somebody may try to sign in.
//! Takes: an address and an account. Gives: leave to try, or a problem of status 429.
//! Never: asks whether the account is there; lets trying be faster with more replicas.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::LazyLock;
use std::time::Duration;

use harkara_accounts::{InvalidPolicy, Policies, Policy, Strategy};
use harkara_shared::id::UserId;
use sha2::{Digest as _, Sha256};

use crate::ApiState;
use crate::problem::Problem;

const WINDOW: Duration = Duration::from_mins(15);

/// Attempts for one account, from wherever they come. Whoever is kept out by somebody else's attempts has
/// links and the provider.
const BY_ACCOUNT: u32 = 10;

/// Attempts from one address, which many people may share.
const BY_ADDRESS: u32 = 100;

static ACCOUNT: LazyLock<Checked> = LazyLock::new(|| policies("sign-in", BY_ACCOUNT));
static ADDRESS: LazyLock<Checked> = LazyLock::new(|| policies("address", BY_ADDRESS));

/// Policies of numbers of ours, which are right: a test shows it.
type Checked = Result<Policies, InvalidPolicy>;

fn policies(name: &str, quota: u32) -> Checked {
    let policy = Policy::new(name, Strategy::SlidingWindow, quota, 0, WINDOW);
    Policies::new(vec![policy])
}

/// Counts an attempt to sign in to an account.
pub(crate) async fn charge(
    state: &ApiState,
    address: Option<IpAddr>,
    email: &str,
) -> Result<(), Problem> {
    charge_address(state, address).await?;
    // What somebody typed is of any length, and none of our business.
    let digest = Sha256::digest(email.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    charge_one(state, &format!("sign-in:{hex}"), &ACCOUNT).await
}

/// Counts an attempt of a person who has signed in to prove who they are.
pub(crate) async fn charge_person(state: &ApiState, user: UserId) -> Result<(), Problem> {
    charge_one(state, &format!("confirm:{user}"), &ACCOUNT).await
}

/// Counts something that an address began.
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

/// The address, or of IPv6 the network of 64 bits, in which a customer of a provider has any address.
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
    fn attempts_are_counted_by_account_and_by_address() {
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
