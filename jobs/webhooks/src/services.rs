//! Dependencies of the webhook kinds.

use crate::DeliveryBatcher;

/// Dependencies of the webhook kinds, created once per process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Services {
    /// Dependencies that kinds of all domains share.
    pub common: harkara_kind::Services,
    /// Loads and records the deliveries of the process.
    pub deliveries: DeliveryBatcher,
}
