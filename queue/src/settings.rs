//! Settings of queues, tenants and lanes, which can change while jobs run: pauses, limits, weights,
//! breakers.
//!
//! A change applies to the next claim of every worker. Takes no part in authorization, and works on the
//! engine's connections, not in a tenant's transaction.

mod error;
mod lanes;
mod limit;
mod limiters;
mod queues;
mod tenants;

pub use error::SettingsError;
pub use lanes::{Breaker, BreakerState, LaneChange, LaneSettings};
pub use limit::{
    Change, InvalidLimit, Limit, LimitChange, MAX_LIMIT_VALUE, MAX_TENANT_LIMITS, RATE_PERIODS,
    Rate, is_key,
};
pub use queues::{QueueSettings, QueueView};
pub use tenants::{MAX_WAITING_JOBS, TenantChange, TenantSettings, set_tier_limits};
