//! Room: the first admin.
//! Takes: a migrated database. Gives: somebody who can sign in, and a link for this start to do so.
//! Never: makes another admin where people are already.

use harkara_api::access;
use harkara_api::people::{self, DEFAULT_LIFE, NewUser, SignInLink};
use harkara_shared::audit::Actor;
use harkara_shared::database::TenantTx;
use sqlx::PgPool;

/// Email of the first admin.
pub(super) const EMAIL: &str = "admin@localhost";

/// A link for the first admin; `None` when that one is gone or disabled and others look after the
/// platform.
pub(super) async fn link(pool: &PgPool) -> anyhow::Result<Option<SignInLink>> {
    let by = Actor::system("harkara up");
    let platform = access::ensure_platform(pool).await?;
    let mut tx = TenantTx::begin(pool, platform.id).await?;
    let admin = match people::find_user_by_email(&mut tx, EMAIL).await? {
        Some(admin) => admin,
        None if !people::list_users(&mut tx, None, 1).await?.is_empty() => return Ok(None),
        None => {
            let new = NewUser {
                email: EMAIL.to_owned(),
                name: "First admin".to_owned(),
                role: "admin".to_owned(),
                expires_at: None,
                reason: Some("the first start".to_owned()),
            };
            people::create_user(&mut tx, &by, new).await?
        }
    };
    if admin.disabled_at.is_some() {
        return Ok(None);
    }
    let link = people::create_link(&mut tx, &by, admin.id, DEFAULT_LIFE).await?;
    tx.commit().await?;
    Ok(Some(link))
}
