//! Functions of the schemas `app` and `queue` are executable by the roles that need them, and by no other.

use harkara_test_database::TestDatabase;

/// Functions that PUBLIC can execute, by name, with the reason. All run with the rights of the caller.
const PUBLIC_FUNCTIONS: [(&str, &str); 5] = [
    (
        "app.current_tenant",
        "policies call it as the role that reads the table; it reads a setting",
    ),
    (
        "app.effective_permissions",
        "reads only rows that the caller can read",
    ),
    ("app.hash_audit_entry", "reads no table"),
    (
        "app.refuse_audit_change",
        "a trigger function, which no statement can call",
    ),
    (
        "app.verify_audit_chain",
        "reads only rows that the caller can read",
    ),
];

#[tokio::test]
async fn public_executes_only_listed_functions() {
    let database = TestDatabase::create().await;
    let found: Vec<String> = harkara_shared::database::query_scalar(
        "select distinct p.oid::regproc::text || case when p.prosecdef then ' (security definer)' else '' end \
         from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a \
         where p.pronamespace in ('app'::regnamespace, 'queue'::regnamespace) \
         and a.grantee = 0 and a.privilege_type = 'EXECUTE' order by 1",
    )
    .fetch_all(&database.pool())
    .await
    .unwrap();
    let listed: Vec<&str> = PUBLIC_FUNCTIONS.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        found, listed,
        "revoke execute from public in the function's file, or list it with a reason"
    );
}

#[tokio::test]
async fn security_definer_functions_set_their_search_path() {
    let database = TestDatabase::create().await;
    let found: Vec<String> = harkara_shared::database::query_scalar(
        "select p.oid::regprocedure::text from pg_proc p \
         where p.pronamespace in ('app'::regnamespace, 'queue'::regnamespace) and p.prosecdef \
         and not exists (select from unnest(p.proconfig) s where s like 'search_path=%') order by 1",
    )
    .fetch_all(&database.pool())
    .await
    .unwrap();
    assert_eq!(found, Vec::<String>::new(), "without a search_path");
}
