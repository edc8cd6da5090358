//! Dependencies that all handlers of a process share.

use harkara_queue::Engine;
use harkara_shared::blob::BlobStore;
use harkara_shared::egress::Egress;
use harkara_shared::vault::MasterKeys;
use sqlx::PgPool;

/// Dependencies that all handlers of a process share, created at start-up. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Services {
    /// Database, reached through `TenantTx` only.
    pub pool: PgPool,
    /// The queue.
    pub engine: Engine,
    /// Opens sealed secrets.
    pub keys: MasterKeys,
    /// Calls addresses that tenants name.
    pub egress: Egress,
    /// Files that outlive the database; `None` without a configured blob store.
    pub blobs: Option<BlobStore>,
}
