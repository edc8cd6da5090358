//! What the handlers of all domains work with, made once a process.

use std::sync::Arc;

use harkara_platform as platform;
use harkara_webhooks::{self as webhooks, DeliveryBatcher};

/// One part a domain. A kind names the part it needs (`JobKind::Services`) and is given that part alone.
#[derive(Debug, Clone)]
pub struct Services {
    common: harkara_kind::Services,
    platform: platform::Services,
    webhooks: webhooks::Services,
}

impl Services {
    /// The parts of all domains.
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

    /// What all domains share.
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
