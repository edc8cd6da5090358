//! The tables that hold a tenant's rows, for export and erasure.
//!
//! A test compares the list with the database's catalogue.

/// A table of the schema `app` whose rows each belong to one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantTable {
    /// Its name.
    pub name: &'static str,
    /// Columns that leave the platform with no export: secrets, sealed or hashed, and whatever only the
    /// platform can make use of.
    pub left_out: &'static [&'static str],
}

const fn table(name: &'static str) -> TenantTable {
    without(name, &[])
}

const fn without(name: &'static str, left_out: &'static [&'static str]) -> TenantTable {
    TenantTable { name, left_out }
}

/// The end of a tenant's audit chain: goes with the tenant itself.
pub const AUDIT_HEADS: &str = "audit_heads";

/// All tables of tenants, in the order of erasure: a table comes before those that its rows refer to.
pub const TABLES: &[TenantTable] = &[
    table("delivery_attempts"),
    table("deliveries"),
    table("events"),
    table("event_types"),
    without("endpoint_secrets", &["sealed"]),
    // Headers may hold what only the receiver should know.
    without(
        "webhook_endpoints",
        &["headers", "client_key", "oauth2_secret"],
    ),
    table("endpoint_hours"),
    table("webhook_settings"),
    table("schedules"),
    table("usage"),
    without("idempotency", &["token", "fingerprint", "body"]),
    without("api_keys", &["hash"]),
    without("sessions", &["token_hash"]),
    without("sign_in_links", &["token_hash"]),
    table("role_grants"),
    table("user_permissions"),
    without("users", &["password_hash", "totp_sealed"]),
    without("audit_anchors", &["hash"]),
    without("audit_log", &["hash"]),
    without(AUDIT_HEADS, &["hash"]),
];
