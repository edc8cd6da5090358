//! Tests of fair shares with any number of tenants and parcels of any size.

use proptest::prelude::*;

use super::*;

fn lane(tenant: i32, lane: i64, tenant_weight: i16, lane_weight: i16) -> WaitingLane {
    WaitingLane {
        lane,
        tenant,
        lane_weight,
        tenant_weight,
    }
}

/// Jobs that each lane gets while all lanes always have work, in parcels of a size of their own.
fn serve(waiting: &[(WaitingLane, u32)], turns: usize, budget: u32) -> HashMap<i64, f64> {
    let mut fair = FairShare::default();
    let mut given: HashMap<i64, f64> = HashMap::new();
    let lanes: Vec<WaitingLane> = waiting.iter().map(|(lane, _)| *lane).collect();
    for _ in 0..turns {
        for (id, share) in fair.allocate(&lanes, budget) {
            let (lane, parcel) = waiting.iter().find(|(lane, _)| lane.lane == id).unwrap();
            // Whole parcels, as many as make up the share.
            let jobs = share.div_ceil(*parcel) * parcel;
            fair.record_served(lane.tenant, id, jobs);
            *given.entry(id).or_default() += f64::from(jobs);
        }
    }
    given
}

fn close(one: f64, other: f64, slack: f64) -> bool {
    (one - other).abs() <= slack
}

#[test]
fn tenants_share_by_weight_and_then_their_lanes() {
    let waiting = [
        (lane(1, 1, 1, 1), 1),
        (lane(1, 2, 1, 3), 1),
        (lane(2, 3, 2, 1), 1),
    ];
    let given = serve(&waiting, 100, 120);
    assert!(close(given[&1], 1000.0, 5.0), "{given:?}");
    assert!(close(given[&2], 3000.0, 5.0), "{given:?}");
    assert!(close(given[&3], 8000.0, 5.0), "{given:?}");
}

#[test]
fn large_parcels_count_against_later_rounds() {
    let waiting = [(lane(1, 1, 1, 1), 500), (lane(2, 2, 1, 1), 1)];
    let given = serve(&waiting, 1000, 20);
    assert!(close(given[&1], given[&2], 520.0), "{given:?}");
}

#[test]
fn idle_time_is_not_saved_up() {
    let mut fair = FairShare::default();
    let (busy, idle) = (lane(1, 1, 1, 1), lane(2, 2, 1, 1));
    for _ in 0..100 {
        for (id, share) in fair.allocate(&[busy], 100) {
            fair.record_served(1, id, share);
        }
    }
    let shares: HashMap<i64, u32> = fair.allocate(&[busy, idle], 100).into_iter().collect();
    // At most the jobs of the busy lane in its last round.
    assert!(shares[&2] <= 100 && shares.values().sum::<u32>() == 100);
    fair.record_served(2, 2, shares[&2]);
    fair.record_served(1, 1, shares.get(&1).copied().unwrap_or_default());
    let shares: HashMap<i64, u32> = fair.allocate(&[busy, idle], 100).into_iter().collect();
    assert_eq!(shares[&1], 50, "{shares:?}");
}

#[test]
fn stored_totals_outlive_the_worker() {
    let mut fair = FairShare::default();
    let (greedy, other) = (lane(1, 1, 1, 1), lane(2, 2, 1, 1));
    fair.allocate(&[greedy, other], 10);
    fair.record_served(1, 1, 500);
    let saved = fair.unsaved();
    assert_eq!(saved.len(), 1);
    let mut next = FairShare::default();
    next.restore(greedy, 500.0);
    next.restore(other, 0.0);
    let shares = next.allocate(&[greedy, other], 100);
    assert_eq!(shares, [(2, 100)], "the greedy tenant has had its share");
}

#[test]
fn long_history_is_no_debt() {
    // A worker starts while only the younger of two tenants has work; the older one has work later.
    let (old, young) = (lane(1, 1, 1, 1), lane(2, 2, 1, 1));
    let mut fair = FairShare::default();
    fair.raise_floor(1_000_000.0);
    fair.restore(young, 100.0);
    let mut database = HashMap::from([(1, 1_000_050.0), (2, 100.0)]);
    let mut given: HashMap<i64, u32> = HashMap::new();
    for turn in 0..200 {
        let waiting = if turn % 5 == 0 {
            vec![old, young]
        } else {
            vec![young]
        };
        for (id, share) in fair.allocate(&waiting, 100) {
            let jobs = if id == 1 { 1 } else { share };
            fair.record_served(i32::try_from(id).unwrap(), id, jobs);
            *given.entry(id).or_default() += jobs;
        }
        if turn % 10 == 0 {
            for share in fair.unsaved() {
                let known: &mut f64 = database.get_mut(&share.tenant).unwrap();
                *known = (*known + share.added).max(share.base + share.added);
                fair.record_saved(share.tenant, share.added, *known);
            }
        }
    }
    assert!(
        given[&1] >= 39,
        "had work forty times, was served {} times",
        given[&1]
    );
}

proptest! {
    #[test]
    fn budget_is_used_up_and_not_exceeded(
        lanes in prop::collection::vec((1i32..6, 1i16..10, 0u32..2000), 1..40),
        budget in 1u32..5000,
    ) {
        let mut fair = FairShare::default();
        let waiting: Vec<WaitingLane> = lanes
            .iter()
            .zip(1..)
            .map(|((tenant, weight, _), id)| lane(*tenant, id, 1, *weight))
            .collect();
        fair.allocate(&waiting, 1);
        for (waiting, (_, _, before)) in waiting.iter().zip(&lanes) {
            fair.record_served(waiting.tenant, waiting.lane, *before);
        }
        let shares = fair.allocate(&waiting, budget);
        let given: u32 = shares.iter().map(|(_, share)| share).sum();
        prop_assert!(given <= budget);
        // Rounding can leave less than one job per lane to the next round.
        prop_assert!(given + u32::try_from(lanes.len()).unwrap() >= budget, "{given} of {budget}");
        prop_assert!(shares.iter().all(|(_, share)| *share > 0));
    }

    #[test]
    fn tenants_get_their_weighted_share_over_time(
        weights in prop::collection::vec((1i16..5, 1u32..200), 2..8),
    ) {
        let waiting: Vec<(WaitingLane, u32)> = weights
            .iter()
            .zip(1..)
            .map(|((weight, parcel), id)| (lane(id, i64::from(id), *weight, 1), *parcel))
            .collect();
        let given = serve(&waiting, 2000, 50);
        let total: f64 = given.values().sum();
        let all: f64 = weights.iter().map(|(weight, _)| f64::from(*weight)).sum();
        for (waiting, _) in &waiting {
            let fair = total * f64::from(waiting.tenant_weight) / all;
            let had = given[&waiting.lane];
            prop_assert!(close(had, fair, fair * 0.05 + 250.0), "{had} for {fair}: {given:?}");
        }
    }
}
