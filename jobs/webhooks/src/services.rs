//! What the kinds of this domain work with.

use crate::DeliveryBatcher;

/// Made once a process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Services {
    /// What kinds of all domains share.
    pub common: harkara_kind::Services,
    /// What all deliveries of the process share.
    pub deliveries: DeliveryBatcher,
}
