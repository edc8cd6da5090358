//! Keeps the current lease of a worker, and a token that is cancelled when the lease is lost.
//!
//! A lease is the right to run the jobs claimed under it, until it expires.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The current lease of one worker. The worker claims jobs only while a lease is set.
#[derive(Debug, Default)]
pub(super) struct LeaseState(Mutex<CurrentLease>);

#[derive(Debug, Default)]
struct CurrentLease {
    id: Option<i64>,
    /// Cancelled when this lease is lost. Each lease has its own token.
    lost: CancellationToken,
}

impl LeaseState {
    fn lock(&self) -> MutexGuard<'_, CurrentLease> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Id of the current lease. `None` before the first lease is opened and after a lease is lost.
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

    /// Records that the current lease is lost, and cancels the runs of the jobs claimed under it.
    pub(super) fn mark_lost(&self) {
        let mut current = self.lock();
        current.id = None;
        current.lost.cancel();
    }

    /// Returns a token that is cancelled when `lease` is lost. The token is already cancelled if `lease`
    /// is not the current lease, for example because it was lost just after a claim.
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
