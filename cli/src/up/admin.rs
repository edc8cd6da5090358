//! The first admin of a platform, with a sign-in link for each start.
//!
//! Once other users exist, no further admin is created.

use harkara_accounts as accounts;
use harkara_accounts::users::{self, DEFAULT_LIFE, NewUser, SignInLink};
use harkara_shared::audit::Actor;
use harkara_shared::database::TenantTx;
use sqlx::PgPool;

/// Email of the first admin.
pub(super) const EMAIL: &str = "admin@localhost";

/// A sign-in link for the first admin; `None` when that user is disabled, or is gone while other users
/// exist.
pub(super) async fn admin_link(pool: &PgPool) -> anyhow::Result<Option<SignInLink>> {
    let actor = Actor::system("harkara up");
    let platform = accounts::ensure_platform(pool).await?;
    let mut tx = TenantTx::begin(pool, platform.id).await?;
    let admin = match users::find_user_by_email(&mut tx, EMAIL).await? {
        Some(admin) => admin,
        None if !users::list_users(&mut tx, None, 1).await?.is_empty() => return Ok(None),
        None => {
            let new = NewUser {
                email: EMAIL.to_owned(),
                name: "First admin".to_owned(),
                role: "admin".to_owned(),
                expires_at: None,
                reason: Some("the first start".to_owned()),
            };
            users::create_user(&mut tx, &actor, new).await?
        }
    };
    if admin.disabled_at.is_some() {
        return Ok(None);
    }
    let link = users::create_link(&mut tx, &actor, admin.id, DEFAULT_LIFE).await?;
    tx.commit().await?;
    Ok(Some(link))
}
