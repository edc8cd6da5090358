//! Roles, which are the same for all tenants and change with a release only.

use harkara_shared::database::{TenantTx, query_as};

use super::Error;

/// A role that can be granted to users.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Role {
    /// The name it is granted by.
    pub name: String,
    /// What the role is for.
    pub description: String,
    /// Roles whose permissions it includes.
    pub inherits: Vec<String>,
    /// All its permissions, including inherited ones.
    pub permissions: Vec<String>,
}

/// Lists all roles, by name.
///
/// # Errors
/// When the database refuses.
pub async fn list_roles(tx: &mut TenantTx) -> Result<Vec<Role>, Error> {
    Ok(query_as(include_str!("../sql/role/list_roles.sql"))
        .fetch_all(&mut **tx)
        .await?)
}
