//! The lease that a worker currently holds, and a token that is cancelled when it is lost.
//!
//! A lease is the right to run the jobs claimed under it, until it expires.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The current lease of one worker. Jobs can only be claimed while it is set.
#[derive(Debug, Default)]
pub(super) struct LeaseState(Mutex<CurrentLease>);

#[derive(Debug, Default)]
struct CurrentLease {
    id: Option<i64>,
    /// Cancelled when the lease is lost; replaced when a new one is opened.
    lost: CancellationToken,
}

impl LeaseState {
    fn lock(&self) -> MutexGuard<'_, CurrentLease> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Id of the current lease.
    pub(super) fn id(&self) -> Option<i64> {
        self.lock().id
    }

    /// Sets the lease under which the worker claims from now on.
    pub(super) fn set(&self, lease: i64) {
        *self.lock() = CurrentLease {
            id: Some(lease),
            lost: CancellationToken::new(),
        };
    }

    /// Records that the lease is lost, and cancels the runs of jobs claimed under it.
    pub(super) fn lose(&self) {
        let mut current = self.lock();
        current.id = None;
        current.lost.cancel();
    }

    /// The token that is cancelled when `lease` is lost. Cancelled already if `lease` is not the
    /// current one, for example because it was lost just after a claim.
    pub(super) fn lost_token(&self, lease: i64) -> CancellationToken {
        let current = self.lock();
        if current.id == Some(lease) {
            return current.lost.clone();
        }
        let lost = CancellationToken::new();
        lost.cancel();
        lost
    }
}
