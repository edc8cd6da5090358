//! The scopes that each permission grants.
//!
//! No two permissions grant the same scope: a user who is denied one of them must lack its scopes.

use crate::scope::Scope;

/// The scopes of a permission; `is_platform` for users of the built-in tenant. A permission that this release does
/// not know grants none.
#[must_use]
pub fn scopes(permission: &str, is_platform: bool) -> &'static [Scope] {
    use Scope as S;
    match permission {
        "messages:read" => &[S::MessagesRead],
        "messages:manage" => &[S::MessagesSend, S::ConsentsManage],
        "templates:manage" => &[S::TemplatesManage],
        "accounts:manage" => &[S::UsersManage],
        "jobs:read" => &[S::JobsRead, S::SchedulesRead, S::WebhooksRead],
        "jobs:manage" => &[
            S::JobsWrite,
            S::QueuesManage,
            S::SchedulesManage,
            S::WebhooksManage,
        ],
        "backups:read" => &[S::BackupsRead],
        "backups:manage" => &[S::BackupsManage],
        "reports:read" => &[S::ReportsRead],
        "reports:manage" => &[S::ReportsExport],
        "trunks:read" => &[S::TrunksRead],
        "trunks:manage" => &[S::TrunksManage],
        "billing:read" => &[S::BillingRead],
        "billing:manage" => &[S::BillingManage],
        "admin:read" => &[S::AuditRead],
        "admin:manage" if is_platform => &[
            S::LimitsManage,
            S::KeysManage,
            S::TenantAdmin,
            S::PlatformAdmin,
        ],
        "admin:manage" => &[S::LimitsManage, S::KeysManage, S::TenantAdmin],
        // Permissions without scopes in the API so far.
        _ => &[],
    }
}

/// The scopes of several permissions, in the order of [`Scope`].
#[must_use]
pub fn all_scopes(permissions: &[String], is_platform: bool) -> Vec<Scope> {
    let mut all: Vec<Scope> = permissions
        .iter()
        .flat_map(|permission| scopes(permission, is_platform))
        .copied()
        .collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use harkara_shared::database::{query_as, query_scalar};
    use harkara_test_database::TestDatabase;

    use super::*;

    /// Permissions that open nothing of the API.
    const SCOPELESS: [&str; 6] = [
        "leads:read",
        "leads:manage",
        "sales:read",
        "sales:manage",
        "templates:read",
        "accounts:read",
    ];

    async fn permissions_of(role: &str) -> Vec<String> {
        let database = TestDatabase::create().await;
        let roles = query_as::<(String, String, Vec<String>, Vec<String>)>(include_str!(
            "../sql/role/list_roles.sql"
        ))
        .fetch_all(&database.pool())
        .await
        .unwrap();
        let found = roles.into_iter().find(|(name, ..)| name == role);
        found.map(|(.., permissions)| permissions).unwrap()
    }

    #[tokio::test]
    async fn every_permission_there_is_has_its_scopes_and_no_scope_has_two() {
        let database = TestDatabase::create().await;
        let every = query_scalar::<String>("select name from app.permissions order by name")
            .fetch_all(&database.pool())
            .await
            .unwrap();
        assert_eq!(every.len(), 22);
        assert_eq!(
            permissions_of("admin").await,
            every,
            "an admin has all of them"
        );
        let mut seen = BTreeSet::new();
        for permission in &every {
            let scopes = scopes(permission, true);
            assert_eq!(
                scopes.is_empty(),
                SCOPELESS.contains(&permission.as_str()),
                "{permission}"
            );
            for scope in scopes {
                assert!(seen.insert(*scope), "{scope} belongs to two permissions");
            }
        }
        let all: BTreeSet<Scope> = Scope::ALL.iter().copied().collect();
        assert_eq!(seen, all, "an admin of the platform has every scope");
    }

    #[tokio::test]
    async fn an_admin_of_a_tenant_has_every_scope_but_the_platforms() {
        let every = permissions_of("admin").await;
        let mut expected = Scope::ALL.to_vec();
        expected.retain(|scope| *scope != Scope::PlatformAdmin);
        expected.sort_unstable();
        assert_eq!(all_scopes(&every, false), expected);
    }
}
