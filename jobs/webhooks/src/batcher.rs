//! Batches calls to an operation that answers many items at once, or fails for all of them.
//!
//! A failed batch of several items is repeated item by item, so that one item that cannot be answered
//! does not fail the others. Queueing, bounds and the handling of dropped callers and panics are those
//! of [`harkara_shared::batcher`]. Items of dropped callers are processed like all others.

use std::hash::Hash;
use std::sync::Arc;

use harkara_shared::batcher::{self, Pending};

/// Most items of one batch.
const MAX_BATCH_ITEMS: usize = 256;

/// An answer, or the error that all items of a failed batch share.
type Answer<A, E> = Result<A, Arc<E>>;

/// Collects items `Q` by key and answers each with an `A`, or an `E` shared by its batch. One batch of a
/// key is processed at a time; items that arrive meanwhile go with the next.
pub(super) struct Batcher<K, Q, A, E>(batcher::Batcher<K, Q, Answer<A, E>>);

impl<K, Q, A, E> Default for Batcher<K, Q, A, E>
where
    K: Copy + Eq + Hash + Send + 'static,
    Q: Send + 'static,
    A: Send + 'static,
    E: Send + Sync + 'static,
{
    fn default() -> Self {
        Self(batcher::Batcher::new(MAX_BATCH_ITEMS))
    }
}

impl<K, Q, A, E> Batcher<K, Q, A, E>
where
    K: Copy + Eq + Hash + Send + 'static,
    Q: Clone + Send + Sync + 'static,
    A: Send + 'static,
    E: Send + Sync + 'static,
{
    /// Returns the answer to `item`, from a call of `work` with all items of `key` that arrived
    /// meanwhile. `work` returns the answers in the order of its items.
    ///
    /// # Errors
    /// The error of `work`; `None` if it panicked or the runtime is shutting down.
    pub(super) async fn ask<W, F>(&self, key: K, item: Q, work: W) -> Result<A, Option<Arc<E>>>
    where
        W: Fn(Vec<Q>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Vec<A>, E>> + Send + 'static,
    {
        let work = Arc::new(work);
        let flush = move |batch| process(batch, Arc::clone(&work));
        match self.0.call(key, item, flush).await {
            Ok(answer) => answer.map_err(Some),
            Err(batcher::Unanswered) => Err(None),
        }
    }
}

async fn process<Q, A, E, W, F>(batch: Vec<Pending<Q, Answer<A, E>>>, work: Arc<W>)
where
    Q: Clone,
    W: Fn(Vec<Q>) -> F,
    F: Future<Output = Result<Vec<A>, E>>,
{
    let items: Vec<Q> = batch.iter().map(|pending| pending.item.clone()).collect();
    match work(items).await {
        Ok(answers) => {
            for (pending, answer) in batch.into_iter().zip(answers) {
                pending.reply.send(Ok(answer));
            }
        }
        Err(error) if batch.len() == 1 => fail(batch, error),
        Err(_) => {
            for pending in batch {
                match work(vec![pending.item.clone()]).await {
                    Ok(mut answers) => {
                        if let Some(answer) = answers.pop() {
                            pending.reply.send(Ok(answer));
                        }
                    }
                    Err(error) => fail(vec![pending], error),
                }
            }
        }
    }
}

fn fail<Q, A, E>(batch: Vec<Pending<Q, Answer<A, E>>>, error: E) {
    let error = Arc::new(error);
    for pending in batch {
        pending.reply.send(Err(Arc::clone(&error)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;

    use super::*;

    type Doubler = Batcher<u8, u32, u32, String>;

    async fn double(numbers: Vec<u32>) -> Result<Vec<u32>, String> {
        tokio::task::yield_now().await;
        match numbers.contains(&13) {
            true => Err(format!("of {}", numbers.len())),
            false => Ok(numbers.iter().map(|number| number * 2).collect()),
        }
    }

    #[tokio::test]
    async fn concurrent_items_share_batches_and_get_their_own_answers() {
        let (doubler, calls) = (Arc::new(Doubler::default()), Arc::new(AtomicUsize::new(0)));
        let mut callers = JoinSet::new();
        for number in 0..200 {
            let (doubler, calls) = (Arc::clone(&doubler), Arc::clone(&calls));
            callers.spawn(async move {
                let work = move |numbers| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    double(numbers)
                };
                (number, doubler.ask(1, number + 100, work).await)
            });
        }
        for (number, answer) in callers.join_all().await {
            assert_eq!(answer, Ok((number + 100) * 2));
        }
        assert!(calls.load(Ordering::Relaxed) <= 3);
    }

    #[tokio::test]
    async fn failing_item_fails_no_other() {
        let doubler = Doubler::default();
        let ask = |number| doubler.ask(1, number, double);
        let (one, bad, two) = tokio::join!(ask(1), ask(13), ask(2));
        assert_eq!((one, two), (Ok(2), Ok(4)));
        assert_eq!(bad, Err(Some(Arc::new("of 1".to_owned()))));
    }

    #[tokio::test]
    async fn item_beside_a_dropped_caller_is_answered() {
        let doubler = Arc::new(Doubler::default());
        let first = Arc::clone(&doubler);
        let gone = tokio::spawn(async move { first.ask(1, 1, double).await });
        tokio::task::yield_now().await;
        gone.abort();
        assert_eq!(doubler.ask(1, 2, double).await, Ok(4));
    }
}
