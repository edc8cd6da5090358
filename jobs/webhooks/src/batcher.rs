//! Batches calls to an operation that processes many items at once and succeeds or fails for all of them.
//!
//! A failed batch of several items is repeated item by item, so that one bad item does not fail the others. Queueing,
//! bounds and the handling of dropped callers and panics are those of [`harkara_shared::batcher`]. Items of dropped
//! callers are processed like all others.

use std::hash::Hash;
use std::sync::Arc;

use harkara_shared::batcher::{self, Pending};

/// Maximum number of items in one batch.
const MAX_BATCH_ITEMS: usize = 256;

/// The output of one item, or the error that all items of a failed batch share.
type ItemResult<T, E> = Result<T, Arc<E>>;

/// Collects items by key `K` and returns to the caller of each an output `T`, or an error `E` that its batch shares.
/// One batch of a key is processed at a time; items that arrive meanwhile go into the next.
pub(super) struct Batcher<K, I, T, E>(batcher::Batcher<K, I, ItemResult<T, E>>);

impl<K, I, T, E> Default for Batcher<K, I, T, E>
where
    K: Copy + Eq + Hash + Send + 'static,
    I: Send + 'static,
    T: Send + 'static,
    E: Send + Sync + 'static,
{
    fn default() -> Self {
        Self(batcher::Batcher::new(MAX_BATCH_ITEMS))
    }
}

impl<K, I, T, E> Batcher<K, I, T, E>
where
    K: Copy + Eq + Hash + Send + 'static,
    I: Clone + Send + Sync + 'static,
    T: Send + 'static,
    E: Send + Sync + 'static,
{
    /// Returns the output for `item`, from a call of `work` with all items of `key` that arrived while the previous
    /// call ran. `work` returns the outputs in the order of its items.
    ///
    /// # Errors
    /// The error of `work`; `None` if it panicked or the runtime is shutting down.
    pub(super) async fn call<W, F>(&self, key: K, item: I, work: W) -> Result<T, Option<Arc<E>>>
    where
        W: Fn(Vec<I>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Vec<T>, E>> + Send + 'static,
    {
        let work = Arc::new(work);
        let flush = move |batch| process(batch, Arc::clone(&work));
        match self.0.call(key, item, flush).await {
            Ok(result) => result.map_err(Some),
            Err(batcher::Unanswered) => Err(None),
        }
    }
}

async fn process<I, T, E, W, F>(batch: Vec<Pending<I, ItemResult<T, E>>>, work: Arc<W>)
where
    I: Clone,
    W: Fn(Vec<I>) -> F,
    F: Future<Output = Result<Vec<T>, E>>,
{
    let items: Vec<I> = batch.iter().map(|pending| pending.item.clone()).collect();
    match work(items).await {
        Ok(outputs) => {
            for (pending, output) in batch.into_iter().zip(outputs) {
                pending.reply.send(Ok(output));
            }
        }
        Err(error) if batch.len() == 1 => fail(batch, error),
        Err(_) => {
            for pending in batch {
                match work(vec![pending.item.clone()]).await {
                    Ok(mut outputs) => {
                        if let Some(output) = outputs.pop() {
                            pending.reply.send(Ok(output));
                        }
                    }
                    Err(error) => fail(vec![pending], error),
                }
            }
        }
    }
}

fn fail<I, T, E>(batch: Vec<Pending<I, ItemResult<T, E>>>, error: E) {
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
    async fn concurrent_items_share_batches_and_get_their_own_outputs() {
        let (doubler, calls) = (Arc::new(Doubler::default()), Arc::new(AtomicUsize::new(0)));
        let mut callers = JoinSet::new();
        for number in 0..200 {
            let (doubler, calls) = (Arc::clone(&doubler), Arc::clone(&calls));
            callers.spawn(async move {
                let work = move |numbers| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    double(numbers)
                };
                (number, doubler.call(1, number + 100, work).await)
            });
        }
        for (number, output) in callers.join_all().await {
            assert_eq!(output, Ok((number + 100) * 2));
        }
        assert!(calls.load(Ordering::Relaxed) <= 3);
    }

    #[tokio::test]
    async fn failing_item_does_not_fail_the_others() {
        let doubler = Doubler::default();
        let call = |number| doubler.call(1, number, double);
        let (one, bad, two) = tokio::join!(call(1), call(13), call(2));
        assert_eq!((one, two), (Ok(2), Ok(4)));
        assert_eq!(bad, Err(Some(Arc::new("of 1".to_owned()))));
    }

    #[tokio::test]
    async fn item_is_processed_after_a_dropped_caller() {
        let doubler = Arc::new(Doubler::default());
        let first = Arc::clone(&doubler);
        let dropped = tokio::spawn(async move { first.call(1, 1, double).await });
        tokio::task::yield_now().await;
        dropped.abort();
        assert_eq!(doubler.call(1, 2, double).await, Ok(4));
    }
}
