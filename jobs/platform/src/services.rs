//! What `maintenance.retention` works with beyond what all kinds share.

use std::sync::Arc;

use harkara_kind::TenantCleanup;

/// Made once a process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Services {
    /// What kinds of all domains share.
    pub common: harkara_kind::Services,
    /// The clean-ups of other domains, run for each tenant in this order.
    pub cleanups: Vec<Arc<dyn TenantCleanup>>,
}
