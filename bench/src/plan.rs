//! The sizes of all measures, for a full and for a quick run. What is measured is the same in both.

use std::time::Duration;

/// Sizes of all measures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    /// Jobs of one of Harkara's drains.
    pub(crate) drain: usize,
    /// Jobs of a peer's drain, before its share is applied.
    pub(crate) peer_drain: usize,
    /// Jobs that 16 callers enqueue.
    pub(crate) single: usize,
    /// Jobs of the latency measures at 50/s and at 1000/s.
    pub(crate) latency: [usize; 2],
    /// Jobs run before the timed part of the snapshot measure, and in it.
    pub(crate) dead: usize,
    pub(crate) held: usize,
    /// Jobs waiting behind the timed ones, for Harkara and for a peer.
    pub(crate) backlog: usize,
    pub(crate) peer_backlog: usize,
    /// Jobs finished before the timed ones.
    pub(crate) history: usize,
    /// Backlog of the noisy tenant, and jobs of the quiet tenants.
    pub(crate) noisy: usize,
    pub(crate) quiet: usize,
    /// The smallest of the Zipf backlogs.
    pub(crate) zipf: usize,
    /// How long the limits of 30/min and 100/s are observed.
    pub(crate) limits: [Duration; 2],
    pub(crate) http: usize,
    /// Events delivered from a backlog, and at an even pace.
    pub(crate) webhooks: usize,
    pub(crate) paced_events: usize,
    /// Requests at an even pace, and charges of a hot key.
    pub(crate) paced: usize,
    pub(crate) hot: usize,
    pub(crate) idle: Duration,
    /// Finished and ready jobs in the tables of the list measures, and how often each request is sent.
    pub(crate) steering: [i64; 2],
    pub(crate) asked: usize,
}

impl Plan {
    /// The sizes of the published results.
    pub(crate) fn full(rounds: usize) -> Self {
        Self {
            quick: false,
            rounds,
            drain: 300_000,
            peer_drain: 100_000,
            single: 4000,
            latency: [400, 3000],
            dead: 500_000,
            held: 50_000,
            backlog: 5_000_000,
            peer_backlog: 1_000_000,
            history: 1_000_000,
            noisy: 1_000_000,
            quiet: 1000,
            zipf: 2000,
            limits: [Duration::from_secs(125), Duration::from_secs(10)],
            http: 20_000,
            webhooks: 10_000,
            paced_events: 150,
            paced: 6000,
            hot: 400_000,
            idle: Duration::from_secs(30),
            steering: [20_000_000, 2_000_000],
            asked: 200,
        }
    }

    /// Small sizes, within five minutes. Peers are left out of measures that need hundreds of thousands of
    /// jobs first, and the limit that takes minutes is not observed.
    pub(crate) fn quick(rounds: usize) -> Self {
        Self {
            quick: true,
            rounds,
            drain: 100_000,
            peer_drain: 20_000,
            single: 1600,
            latency: [150, 2000],
            dead: 100_000,
            held: 10_000,
            backlog: 500_000,
            peer_backlog: 0,
            history: 200_000,
            noisy: 200_000,
            quiet: 250,
            zipf: 1000,
            limits: [Duration::ZERO, Duration::from_secs(5)],
            http: 4000,
            webhooks: 1000,
            paced_events: 50,
            paced: 1000,
            hot: 100_000,
            idle: Duration::from_secs(15),
            steering: [1_000_000, 100_000],
            asked: 100,
        }
    }
}
