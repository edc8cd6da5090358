//! Dependencies of the platform's kinds.

use std::sync::Arc;

use harkara_kind::TenantCleanup;

/// Dependencies of `maintenance.retention`, created once per process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Services {
    /// Dependencies that kinds of all domains share.
    pub common: harkara_kind::Services,
    /// The clean-ups of other domains, run for each tenant in this order.
    pub cleanups: Vec<Arc<dyn TenantCleanup>>,
}
