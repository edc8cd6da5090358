//! The handler used by the kit.
//! Runs the kinds of the catalogue and further ones as a worker does, with the test's
//! clock. Panics and timeouts of handlers are left to the layer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use harkara_jobs::Services;
use harkara_jobs::catalogue::{Catalogue, Kind};
use harkara_queue::{Handler, Run, Verdict};
use harkara_shared::clock::testing::TestClock;

use crate::Kit;

/// The catalogue, further kinds, and a clock.
pub(crate) struct KitHandler {
    kinds: Vec<Kind>,
    services: Arc<Services>,
    catalogue: Catalogue,
    clock: TestClock,
}

impl KitHandler {
    pub(crate) fn of(kit: &Kit, more: Option<Kind>) -> Arc<dyn Handler> {
        let services = Arc::new(Services::new(kit.services.clone(), kit.deliveries.clone()));
        Arc::new(Self {
            kinds: kit.kinds.iter().copied().chain(more).collect(),
            services: services.clone(),
            catalogue: Catalogue::new(services),
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
