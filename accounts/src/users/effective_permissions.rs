//! Effective permissions: the scopes a user has or will have, for checks on changes to users.
//!
//! Also checks that a tenant keeps an admin who can sign in. A request is decided by the scopes of its
//! session, never by these.

use harkara_shared::database::{TenantTx, query, query_scalar};
use harkara_shared::id::UserId;

use super::permission::all_scopes;
use super::{Error, list_roles};
use crate::scope::Scope;

/// The scopes that a user has, or will have by a grant that has not started.
///
/// # Errors
/// When the database refuses.
pub async fn of_user(
    tx: &mut TenantTx,
    user: UserId,
    is_platform: bool,
) -> Result<Vec<Scope>, Error> {
    let permissions: Vec<String> = query_scalar(include_str!(
        "../sql/effective_permissions/list_effective_permissions.sql"
    ))
    .bind(tx.tenant())
    .bind(user)
    .fetch_all(&mut **tx)
    .await?;
    Ok(all_scopes(&permissions, is_platform))
}

/// The scopes of a role, including inherited ones.
///
/// # Errors
/// [`Error::NoSuchRole`], or when the database refuses.
pub async fn of_role(
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

/// Checks that a change of a user does not leave the tenant without an admin who can sign in.
#[derive(Debug)]
pub(super) struct AdminCheck {
    was_admin: bool,
}

impl AdminCheck {
    /// To be called before the change. Locks the tenant's admins, so that concurrent changes wait.
    pub(super) async fn before(tx: &mut TenantTx, user: UserId) -> Result<Self, Error> {
        query(include_str!("../sql/effective_permissions/lock_admins.sql"))
            .bind(tx.tenant())
            .execute(&mut **tx)
            .await?;
        Ok(Self {
            was_admin: has_working_admin(tx, Some(user)).await?,
        })
    }

    /// To be called after the change, in the same transaction. Fails with [`Error::LastAdmin`].
    pub(super) async fn after(&self, tx: &mut TenantTx) -> Result<(), Error> {
        if !self.was_admin || has_working_admin(tx, None).await? {
            Ok(())
        } else {
            Err(Error::LastAdmin)
        }
    }
}

async fn has_working_admin(tx: &mut TenantTx, user: Option<UserId>) -> Result<bool, Error> {
    Ok(query_scalar(include_str!(
        "../sql/effective_permissions/has_working_admin.sql"
    ))
    .bind(tx.tenant())
    .bind(user)
    .fetch_one(&mut **tx)
    .await?)
}
