//! What signing in needs of HTTP: cookies, the identity provider, limits on attempts.
//!
//! Accounts and sessions themselves are in `harkara-accounts`.

pub(crate) mod cookie;
pub(crate) mod oidc;
pub(crate) mod throttle;

use harkara_accounts::users::Token;
use harkara_accounts::users::sign_in::{Attempt, SignIn, SignInError, with_password};
use harkara_shared::audit::Actor;

use crate::ApiState;
use crate::problem::Problem;

/// The problem of every failed sign-in, which does not reveal what was wrong.
pub(crate) fn failed() -> Problem {
    SignInError::Refused.into()
}

/// Signs a person in with their password; counts the attempt first.
///
/// # Errors
/// [`SignInError`] as a problem; of status 429 after too many attempts.
pub(crate) async fn sign_in(
    state: &ApiState,
    actor: &Actor,
    attempt: Attempt,
) -> Result<Token, Problem> {
    let email = harkara_accounts::users::normal_email(&attempt.email);
    throttle::charge(state, actor.address, &email).await?;
    let services = SignIn {
        pool: state.pool(),
        keys: state.keys(),
        passwords: state.passwords(),
    };
    Ok(with_password(services, actor, attempt).await?)
}
