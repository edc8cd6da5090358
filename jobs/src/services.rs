//! Room: what handlers work with.
//! Takes: pools, keys and clients made at start-up. Gives: them. Never: makes one itself.

use harkara_queue::Engine;
use harkara_shared::blob::BlobStore;
use harkara_shared::egress::Egress;
use harkara_shared::vault::MasterKeys;
use sqlx::PgPool;

use crate::webhook::Clerk;

/// Shared by all handlers of a process.
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
    /// What deliveries of this process share.
    pub webhooks: Clerk,
    /// Files that outlive the database, if there is a place for them.
    pub blobs: Option<BlobStore>,
}
