//! Room: the handler of a test.
//! Takes: kinds beside those of the catalogue. Gives: the same runs as in a worker, under the test's
//! clock. Never: catches what a handler does wrong: that is the layer's work.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use harkara_jobs::Services;
use harkara_jobs::catalogue::{Catalogue, Kind};
use harkara_queue::{Handler, Run, Verdict};
use harkara_shared::clock::testing::TestClock;

use crate::Kit;

/// The catalogue, some kinds more, and a clock.
pub(crate) struct KitHandler {
    kinds: Vec<Kind>,
    services: Arc<Services>,
    catalogue: Catalogue,
    clock: TestClock,
}

impl KitHandler {
    pub(crate) fn of(kit: &Kit, more: Option<Kind>) -> Arc<dyn Handler> {
        Arc::new(Self {
            kinds: kit.kinds.iter().copied().chain(more).collect(),
            services: Arc::new(kit.services.clone()),
            catalogue: Catalogue::new(kit.services.clone()),
            clock: kit.clock.clone(),
        })
    }
}

impl Handler for KitHandler {
    fn run(&self, run: Run) -> Pin<Box<dyn Future<Output = Verdict> + Send>> {
        let own = self.kinds.iter().find(|kind| *kind.name == *run.job.kind);
        let running = match own {
            Some(kind) => kind.run(run, Arc::clone(&self.services)),
            None => self.catalogue.run(run),
        };
        let clock = self.clock.clone();
        Box::pin(async move { clock.scope(running).await })
    }
}
