//! Kinds that need other domains, run by the kit against real receivers and a real database.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod maintenance_retention;
