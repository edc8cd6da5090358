//! Room: work of many that is done together.
//! Takes: questions that come one by one. Gives: each its answer, from one call for all that were there.
//! Never: waits for more to come; loses a question whose asker goes away while others wait with it.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Most questions of one call.
const MOST: usize = 256;

/// Why there is no answer, for each of those who asked together.
pub(super) type Refused<E> = Arc<E>;

/// What a call answers: for each question, in their order.
pub(super) type Answers<A, E> = Result<Vec<A>, E>;

type Waiting<Q, A, E> = (Q, oneshot::Sender<Result<A, Refused<E>>>);

type Lines<K, Q, A, E> = Arc<Mutex<HashMap<K, Vec<Waiting<Q, A, E>>>>>;

/// The lines of those who wait, one a key. One call a line at a time: what comes meanwhile goes with the
/// next.
pub(super) struct Batcher<K, Q, A, E> {
    lines: Lines<K, Q, A, E>,
}

impl<K, Q, A, E> Default for Batcher<K, Q, A, E> {
    fn default() -> Self {
        Self {
            lines: Arc::default(),
        }
    }
}

impl<K, Q, A, E> Batcher<K, Q, A, E>
where
    K: Copy + Eq + Hash + Send + 'static,
    Q: Clone + Send + Sync + 'static,
    A: Send + 'static,
    E: Send + Sync + 'static,
{
    /// The answer to `question`, from a call of `work` that may answer others of `key` as well. A call that
    /// fails for many is made anew for each alone, so that one question that cannot be answered spoils no
    /// other.
    ///
    /// # Errors
    /// What `work` says; nothing at all (`None`) when the runtime shuts down.
    pub(super) async fn ask<W, F>(
        &self,
        key: K,
        question: Q,
        work: W,
    ) -> Result<A, Option<Refused<E>>>
    where
        W: Fn(Vec<Q>) -> F + Send + Sync + 'static,
        F: Future<Output = Answers<A, E>> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let is_first = {
            let mut lines = lock(&self.lines);
            let is_first = !lines.contains_key(&key);
            lines.entry(key).or_default().push((question, sender));
            is_first
        };
        if is_first {
            // By a task of its own: whoever asked first may go away, the others still wait.
            tokio::spawn(serve(Arc::clone(&self.lines), key, work));
        }
        match receiver.await {
            Ok(answer) => answer.map_err(Some),
            Err(_) => Err(None),
        }
    }
}

async fn serve<K, Q, A, E, W, F>(lines: Lines<K, Q, A, E>, key: K, work: W)
where
    K: Eq + Hash,
    Q: Clone,
    W: Fn(Vec<Q>) -> F,
    F: Future<Output = Answers<A, E>>,
{
    let mut serving = Serving {
        lines,
        key: Some(key),
    };
    loop {
        // Those who are about to ask, too.
        tokio::task::yield_now().await;
        let waiting = serving.next();
        if waiting.is_empty() {
            return;
        }
        let questions: Vec<Q> = waiting
            .iter()
            .map(|(question, _)| question.clone())
            .collect();
        match work(questions).await {
            Ok(answers) => {
                for ((_, sender), answer) in waiting.into_iter().zip(answers) {
                    sender.send(Ok(answer)).ok();
                }
            }
            Err(error) if waiting.len() == 1 => refuse(waiting, error),
            Err(_) => {
                for (question, sender) in waiting {
                    match work(vec![question.clone()]).await {
                        Ok(mut answers) => {
                            if let Some(answer) = answers.pop() {
                                sender.send(Ok(answer)).ok();
                            }
                        }
                        Err(error) => refuse(vec![(question, sender)], error),
                    }
                }
            }
        }
    }
}

/// Who serves a line. If its work panics, the line goes, and all who wait in it are told nothing.
struct Serving<K: Eq + Hash, Q, A, E> {
    lines: Lines<K, Q, A, E>,
    /// Until the line has been closed.
    key: Option<K>,
}

impl<K: Eq + Hash, Q, A, E> Serving<K, Q, A, E> {
    /// Those to be answered next; none, and the line is closed, when nobody waits.
    fn next(&mut self) -> Vec<Waiting<Q, A, E>> {
        let mut lines = lock(&self.lines);
        let line = self.key.as_ref().and_then(|key| lines.get_mut(key));
        match line {
            Some(line) if !line.is_empty() => {
                let rest = line.split_off(line.len().min(MOST));
                std::mem::replace(line, rest)
            }
            _ => {
                if let Some(key) = self.key.take() {
                    lines.remove(&key);
                }
                Vec::new()
            }
        }
    }
}

impl<K: Eq + Hash, Q, A, E> Drop for Serving<K, Q, A, E> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            lock(&self.lines).remove(&key);
        }
    }
}

fn refuse<Q, A, E>(waiting: Vec<Waiting<Q, A, E>>, error: E) {
    let error = Arc::new(error);
    for (_, sender) in waiting {
        sender.send(Err(Arc::clone(&error))).ok();
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

    type Line = Batcher<u8, u32, u32, String>;

    async fn double(numbers: Vec<u32>) -> Answers<u32, String> {
        tokio::task::yield_now().await;
        match numbers.contains(&13) {
            true => Err(format!("of {}", numbers.len())),
            false => Ok(numbers.iter().map(|number| number * 2).collect()),
        }
    }

    #[tokio::test]
    async fn those_who_ask_at_once_are_answered_together_and_each_with_its_own() {
        let (line, calls) = (Arc::new(Line::default()), Arc::new(AtomicUsize::new(0)));
        let mut asking = JoinSet::new();
        for number in 0..200 {
            let (line, calls) = (Arc::clone(&line), Arc::clone(&calls));
            asking.spawn(async move {
                let work = move |numbers| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    double(numbers)
                };
                (number, line.ask(1, number + 100, work).await)
            });
        }
        for (number, answer) in asking.join_all().await {
            assert_eq!(answer, Ok((number + 100) * 2));
        }
        assert!(calls.load(Ordering::Relaxed) <= 3);
    }

    #[tokio::test]
    async fn one_that_cannot_be_answered_spoils_no_other() {
        let line = Line::default();
        let ask = |number| line.ask(1, number, double);
        let (one, bad, two) = tokio::join!(ask(1), ask(13), ask(2));
        assert_eq!((one, two), (Ok(2), Ok(4)));
        assert_eq!(bad, Err(Some(Arc::new("of 1".to_owned()))));
    }

    #[tokio::test]
    async fn who_asks_with_another_who_goes_away_is_answered() {
        let line = Arc::new(Line::default());
        let first = Arc::clone(&line);
        let gone = tokio::spawn(async move { first.ask(1, 1, double).await });
        tokio::task::yield_now().await;
        gone.abort();
        assert_eq!(line.ask(1, 2, double).await, Ok(4));
    }
}
