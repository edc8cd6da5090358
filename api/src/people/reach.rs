//! Room: how far a person's rights go, for those who would change them.
//! Takes: a tenant's transaction and a person. Gives: the scopes that the person has or may come to have;
//! whether an admin is left who can sign in.
//! Never: decides for a request: what somebody may do now is told by their session.

use harkara_shared::database::{TenantTx, query, query_scalar};
use harkara_shared::id::UserId;

use super::permission::all_scopes;
use super::{Error, list_roles};
use crate::access::Scope;

/// The scopes that a person has or may come to have without another grant.
pub(crate) async fn of_user(
    tx: &mut TenantTx,
    user: UserId,
    is_platform: bool,
) -> Result<Vec<Scope>, Error> {
    let permissions: Vec<String> = query_scalar(include_str!("../sql/reach.sql"))
        .bind(tx.tenant())
        .bind(user)
        .fetch_all(&mut **tx)
        .await?;
    Ok(all_scopes(&permissions, is_platform))
}

/// The scopes of a role and of all it inherits.
pub(crate) async fn of_role(
    tx: &mut TenantTx,
    role: &str,
    is_platform: bool,
) -> Result<Vec<Scope>, Error> {
    let roles = list_roles(tx).await?;
    roles
        .iter()
        .find(|known| known.name == role)
        .map(|role| all_scopes(&role.permissions, is_platform))
        .ok_or_else(|| Error::NoSuchRole(role.to_owned()))
}

/// Whether a person was an admin who can sign in, before something was taken from them.
#[derive(Debug)]
pub(super) struct Admins {
    was_one: bool,
}

impl Admins {
    /// Looks before the change, and has others wait who would take an admin away, too.
    pub(super) async fn look(tx: &mut TenantTx, user: UserId) -> Result<Self, Error> {
        query(include_str!("../sql/lock_admins.sql"))
            .bind(tx.tenant())
            .execute(&mut **tx)
            .await?;
        Ok(Self {
            was_one: has_working(tx, Some(user)).await?,
        })
    }

    /// Goes on after the change if an admin is left, or this person was none.
    pub(super) async fn remain(&self, tx: &mut TenantTx) -> Result<(), Error> {
        if !self.was_one || has_working(tx, None).await? {
            Ok(())
        } else {
            Err(Error::LastAdmin)
        }
    }
}

async fn has_working(tx: &mut TenantTx, user: Option<UserId>) -> Result<bool, Error> {
    Ok(query_scalar(include_str!("../sql/has_working_admin.sql"))
        .bind(tx.tenant())
        .bind(user)
        .fetch_one(&mut **tx)
        .await?)
}
