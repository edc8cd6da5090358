//! Room: roles, which are the same for all tenants.
//! Takes: a tenant's transaction. Gives: roles with all that they inherit.
//! Never: changes one: they come with a release.

use harkara_shared::database::{TenantTx, query_as};

use super::Error;

/// A role.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Role {
    pub(crate) name: String,
    pub(crate) description: String,
    /// The roles whose permissions it has, too.
    pub(crate) inherits: Vec<String>,
    /// All its permissions, those it inherits among them.
    pub(crate) permissions: Vec<String>,
}

/// All roles, by name.
pub(crate) async fn list_roles(tx: &mut TenantTx) -> Result<Vec<Role>, Error> {
    Ok(query_as(include_str!("../sql/list_roles.sql"))
        .fetch_all(&mut **tx)
        .await?)
}
