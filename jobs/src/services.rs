//! Dependencies of the handlers of all domains.

use std::sync::Arc;

use harkara_platform as platform;
use harkara_webhooks::{self as webhooks, DeliveryBatcher};

/// Dependencies of all handlers, created once per process: one part for each domain. A handler receives only the part that
/// its kind names as `JobKind::Services`.
#[derive(Debug, Clone)]
pub struct Services {
    common: harkara_kind::Services,
    platform: platform::Services,
    webhooks: webhooks::Services,
}

impl Services {
    /// Creates the parts of all domains.
    #[must_use]
    pub fn new(common: harkara_kind::Services, deliveries: DeliveryBatcher) -> Self {
        let webhooks = webhooks::Services {
            common: common.clone(),
            deliveries,
        };
        let platform = platform::Services {
            common: common.clone(),
            cleanups: vec![Arc::new(webhooks::Cleanup::new(&common))],
        };
        Self {
            common,
            platform,
            webhooks,
        }
    }

    /// The part that all domains share.
    #[must_use]
    pub fn common(&self) -> &harkara_kind::Services {
        &self.common
    }
}

impl AsRef<harkara_kind::Services> for Services {
    fn as_ref(&self) -> &harkara_kind::Services {
        &self.common
    }
}

impl AsRef<platform::Services> for Services {
    fn as_ref(&self) -> &platform::Services {
        &self.platform
    }
}

impl AsRef<webhooks::Services> for Services {
    fn as_ref(&self) -> &webhooks::Services {
        &self.webhooks
    }
}
