//! The tables that hold a tenant's rows, for export and erasure.
//!
//! A test compares the list with the database's catalogue.

/// A table of the schema `app` whose rows each belong to one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantTable {
    /// The table's name, without its schema.
    pub name: &'static str,
    /// Columns that no export contains: sealed or hashed secrets, and values that are useful only to the platform.
    pub unexported: &'static [&'static str],
}

const fn table(name: &'static str) -> TenantTable {
    table_without(name, &[])
}

const fn table_without(name: &'static str, unexported: &'static [&'static str]) -> TenantTable {
    TenantTable { name, unexported }
}

/// The table with the heads of audit chains. A tenant's row is removed together with the tenant.
pub const AUDIT_HEADS: &str = "audit_heads";

/// All tables of tenants, in the order of erasure: a table comes before those that its rows refer to.
pub const TABLES: &[TenantTable] = &[
    table("delivery_attempts"),
    table("deliveries"),
    table("events"),
    table("event_types"),
    table_without("endpoint_secrets", &["sealed"]),
    // Headers can contain secrets of the receiver.
    table_without(
        "webhook_endpoints",
        &["headers", "client_key", "oauth2_secret"],
    ),
    table("endpoint_hours"),
    table("webhook_settings"),
    table("schedules"),
    table("usage"),
    table_without("idempotency", &["token", "fingerprint", "body"]),
    table_without("api_keys", &["hash"]),
    table_without("sessions", &["token_hash"]),
    table_without("sign_in_links", &["token_hash"]),
    table("role_grants"),
    table("user_permissions"),
    table_without("users", &["password_hash", "totp_sealed"]),
    table_without("audit_anchors", &["hash"]),
    table_without("audit_log", &["hash"]),
    table_without(AUDIT_HEADS, &["hash"]),
];
