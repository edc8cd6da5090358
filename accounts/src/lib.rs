//! Tenants, API keys and users, with their permissions and quotas.
//!
//! Functions take a pool or a tenant's transaction. Nothing here depends on HTTP or decides about a request; the API, the
//! command line and the dashboard do that with the data found here.

mod api_key;
pub mod audit_log;
mod error;
mod key_tier;
mod quota;
mod request_policy;
mod scope;
mod sla_tier;
mod tenant;
pub mod users;

pub use api_key::{
    ApiKey, ApiKeyRow, ChangedLimits, KeyChange, NewKey, PEPPER, add_api_key, change_api_key,
    create_api_key, find_api_key, find_key_by_public_id, has_successor, is_working_key,
    list_api_keys, policies, set_key_limits,
};
pub use error::Error;
pub use key_tier::KeyTier;
pub use quota::{allowance, check_endpoints, check_keys};
pub use request_policy::{InvalidPolicy, Policies, Policy, PolicyColumns, Strategy};
pub use scope::{Scope, UnknownScope};
pub use sla_tier::SlaTier;
pub use tenant::{
    NewTenant, PLATFORM_SLUG, Tenant, TenantChange, TenantStatus, add_tenant, change_tenant,
    contract_endpoint, create_tenant, ensure_platform, find_tenant, is_name, is_slug, list_tenants,
    request_erasure, set_contract_endpoint,
};
