//! Batches calls of many tasks into few operations.
//!
//! Callers pass one item each, under a key. Items that arrive while a flush of the same key is under
//! way go out together in the next one; a batch never waits to fill up. Each key has at most one flush
//! at a time, in a task of its own that ends when no item is left, so an idle key costs nothing.
//!
//! A caller that is dropped leaves nothing behind: its item stays in line until the next flush, which
//! can recognise it with [`Pending::is_abandoned`]. A flush that panics ends with every waiting caller
//! of its key answered by [`Unanswered`], and the next call starts afresh. The line of a key holds at
//! most one item per waiting caller, so callers bound it; a flush is bounded by [`Batcher::new`] and
//! [`Batcher::with_max_weight`].

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The items in line by key. A key is present exactly while a task serves it.
type Lines<K, T, R> = Arc<Mutex<HashMap<K, Vec<Pending<T, R>>>>>;

/// Collects items of type `T` by key and answers each with an `R`.
pub struct Batcher<K, T, R> {
    lines: Lines<K, T, R>,
    limits: Limits<T>,
}

/// No answer: the flush dropped the item, panicked, or the runtime is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the batch ended without an answer for this item")]
pub struct Unanswered;

/// An item of a batch and the caller that waits for its answer.
#[derive(Debug)]
pub struct Pending<T, R> {
    /// The item.
    pub item: T,
    /// Where its answer goes.
    pub reply: Reply<R>,
}

/// Sends an answer to one caller.
#[derive(Debug)]
pub struct Reply<R>(oneshot::Sender<R>);

impl<R> Reply<R> {
    /// Answers the caller; does nothing if it was dropped.
    pub fn send(self, answer: R) {
        self.0.send(answer).ok();
    }
}

impl<T, R> Pending<T, R> {
    /// Whether the caller was dropped, so that no one waits for an answer.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.reply.0.is_closed()
    }
}

/// What one flush holds at most; a first item is taken whatever it weighs.
struct Limits<T> {
    items: usize,
    weight: usize,
    weigh: fn(&T) -> usize,
}

impl<T> Clone for Limits<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Limits<T> {}

impl<T> Limits<T> {
    /// How many items from the front of the line go into the next batch.
    fn fitting<R>(self, line: &[Pending<T, R>]) -> usize {
        let mut weight = 0_usize;
        let fitting = line.iter().take(self.items).take_while(|pending| {
            weight = weight.saturating_add((self.weigh)(&pending.item));
            weight <= self.weight
        });
        fitting.count().max(1).min(line.len())
    }
}

impl<K, T, R> Batcher<K, T, R>
where
    K: Copy + Eq + Hash + Send + 'static,
    T: Send + 'static,
    R: Send + 'static,
{
    /// Returns a batcher whose flushes hold at most `max_items` items.
    #[must_use]
    pub fn new(max_items: usize) -> Self {
        Self {
            lines: Arc::default(),
            limits: Limits {
                items: max_items,
                weight: usize::MAX,
                weigh: |_| 0,
            },
        }
    }

    /// Also limits the sum of `weigh` over the items of one flush to `max_weight`. An item that exceeds
    /// it by itself goes alone.
    #[must_use]
    pub fn with_max_weight(mut self, max_weight: usize, weigh: fn(&T) -> usize) -> Self {
        self.limits.weight = max_weight;
        self.limits.weigh = weigh;
        self
    }

    /// Puts `item` in line under `key` and returns its answer. `flush` is used if no task serves the
    /// key yet: it receives one batch after another, in order of arrival, and answers each item
    /// through its [`Reply`]. Must be called on a Tokio runtime.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn call<F, Fut>(&self, key: K, item: T, flush: F) -> Result<R, Unanswered>
    where
        F: Fn(Vec<Pending<T, R>>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let pending = Pending {
            item,
            reply: Reply(sender),
        };
        let is_served = {
            let mut lines = lock(&self.lines);
            match lines.get_mut(&key) {
                Some(line) => {
                    line.push(pending);
                    true
                }
                None => {
                    lines.insert(key, vec![pending]);
                    false
                }
            }
        };
        if !is_served {
            // In a task of its own: if this caller is dropped, the others still get their answers.
            let served = ServedKey {
                lines: Arc::clone(&self.lines),
                key: Some(key),
            };
            tokio::spawn(serve(served, self.limits, flush));
        }
        receiver.await.map_err(|_| Unanswered)
    }
}

impl<K, T, R> std::fmt::Debug for Batcher<K, T, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batcher").finish_non_exhaustive()
    }
}

async fn serve<K, T, R, F, Fut>(mut served: ServedKey<K, T, R>, limits: Limits<T>, flush: F)
where
    K: Eq + Hash,
    F: Fn(Vec<Pending<T, R>>) -> Fut,
    Fut: Future<Output = ()>,
{
    loop {
        // Callers that were just answered may have their next item ready: it goes with this flush
        // rather than the one after it.
        tokio::task::yield_now().await;
        match served.next_batch(limits) {
            Some(batch) => flush(batch).await,
            None => return,
        }
    }
}

/// A key while a task serves it. If the task panics or is dropped, the key is released and the callers
/// still in line get no answer.
struct ServedKey<K: Eq + Hash, T, R> {
    lines: Lines<K, T, R>,
    /// `None` once released.
    key: Option<K>,
}

impl<K: Eq + Hash, T, R> ServedKey<K, T, R> {
    /// Takes the next batch from the line; `None`, and the key is released, if the line is empty.
    fn next_batch(&mut self, limits: Limits<T>) -> Option<Vec<Pending<T, R>>> {
        let mut lines = lock(&self.lines);
        match self.key.as_ref().and_then(|key| lines.get_mut(key)) {
            Some(line) if !line.is_empty() => {
                let rest = line.split_off(limits.fitting(line));
                Some(std::mem::replace(line, rest))
            }
            _ => {
                if let Some(key) = self.key.take() {
                    lines.remove(&key);
                }
                None
            }
        }
    }
}

impl<K: Eq + Hash, T, R> Drop for ServedKey<K, T, R> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            lock(&self.lines).remove(&key);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;

    use super::*;

    type Doubler = Batcher<u8, u32, u32>;

    async fn double(batch: Vec<Pending<u32, u32>>) {
        tokio::task::yield_now().await;
        for pending in batch {
            assert!(pending.item != 13, "panics for 13");
            pending.reply.send(pending.item * 2);
        }
    }

    #[tokio::test]
    async fn concurrent_calls_share_few_flushes_and_get_their_own_answers() {
        let (batcher, flushes) = (Arc::new(Doubler::new(256)), Arc::new(AtomicUsize::new(0)));
        let mut calls = JoinSet::new();
        for number in 0..200 {
            let (batcher, flushes) = (Arc::clone(&batcher), Arc::clone(&flushes));
            calls.spawn(async move {
                let flush = move |batch| {
                    flushes.fetch_add(1, Ordering::Relaxed);
                    double(batch)
                };
                (number, batcher.call(1, number + 100, flush).await)
            });
        }
        for (number, answer) in calls.join_all().await {
            assert_eq!(answer, Ok((number + 100) * 2));
        }
        assert!(flushes.load(Ordering::Relaxed) <= 3);
        // The serving task releases an idle key in its next turn.
        while !lock(&batcher.lines).is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn flush_is_bounded_by_count_and_weight() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let weigh = |item: &u32| usize::try_from(*item).unwrap();
        let batcher = Doubler::new(3).with_max_weight(10, weigh);
        let call = |item| {
            let sizes = Arc::clone(&sizes);
            let flush = move |batch: Vec<Pending<u32, u32>>| {
                lock(&sizes).push(batch.iter().map(|pending| pending.item).collect::<Vec<_>>());
                double(batch)
            };
            batcher.call(1, item, flush)
        };
        let answers = tokio::join!(
            call(1),
            call(1),
            call(1),
            call(9),
            call(2),
            call(50),
            call(1)
        );
        assert_eq!(answers.5, Ok(100));
        assert_eq!(
            *lock(&sizes),
            [vec![1, 1, 1], vec![9], vec![2], vec![50], vec![1]]
        );
    }

    #[tokio::test]
    async fn keys_are_flushed_separately() {
        let batcher = Doubler::new(256);
        let alone = |batch: Vec<Pending<u32, u32>>| {
            assert_eq!(batch.len(), 1);
            double(batch)
        };
        let answers = tokio::join!(batcher.call(1, 1, alone), batcher.call(2, 2, alone));
        assert_eq!(answers, (Ok(2), Ok(4)));
    }

    #[tokio::test]
    async fn dropped_caller_is_recognised_and_does_not_delay_others() {
        let batcher = Doubler::new(256);
        let flush = |mut batch: Vec<Pending<u32, u32>>| {
            batch.retain(|pending| !pending.is_abandoned());
            assert!(batch.iter().all(|pending| pending.item == 2));
            double(batch)
        };
        let mut dropped = Box::pin(batcher.call(1, 1, flush));
        tokio::select! {
            biased;
            answer = &mut dropped => panic!("answered {answer:?} before it was flushed"),
            () = std::future::ready(()) => drop(dropped),
        }
        assert_eq!(batcher.call(1, 2, flush).await, Ok(4));
    }

    #[tokio::test]
    async fn panic_of_a_flush_is_answered_and_the_next_call_succeeds() {
        let batcher = Doubler::new(1);
        let call = |item| batcher.call(1, item, double);
        let answers = tokio::join!(call(1), call(13), call(2));
        assert_eq!(answers, (Ok(2), Err(Unanswered), Err(Unanswered)));
        assert_eq!(call(3).await, Ok(6));
    }
}
