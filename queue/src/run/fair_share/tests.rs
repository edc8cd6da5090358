//! Tests of fair shares with any number of tenants and parcels of any size.

use proptest::prelude::*;

use super::*;

fn lane(tenant: i32, lane: i64, tenant_weight: i16, lane_weight: i16) -> WeightedLane {
    WeightedLane {
        lane,
        tenant,
        lane_weight,
        tenant_weight,
    }
}

/// Counts the jobs that each lane gets while all lanes always have ready jobs. Each lane has its own size of
/// parcels.
fn count_served(
    ready_lanes: &[(WeightedLane, u32)],
    turns: usize,
    budget: u32,
) -> HashMap<i64, f64> {
    let mut fair = FairShare::default();
    let mut served: HashMap<i64, f64> = HashMap::new();
    let lanes: Vec<WeightedLane> = ready_lanes.iter().map(|(lane, _)| *lane).collect();
    for _ in 0..turns {
        for (id, share) in fair.allocate(&lanes, budget) {
            let (lane, parcel) = ready_lanes
                .iter()
                .find(|(lane, _)| lane.lane == id)
                .unwrap();
            // Whole parcels, as many as make up the share.
            let jobs = share.div_ceil(*parcel) * parcel;
            fair.record_claimed(lane.tenant, id, jobs);
            *served.entry(id).or_default() += f64::from(jobs);
        }
    }
    served
}

fn is_close(one: f64, other: f64, slack: f64) -> bool {
    (one - other).abs() <= slack
}

#[test]
fn tenants_share_by_weight_and_then_their_lanes() {
    let ready_lanes = [
        (lane(1, 1, 1, 1), 1),
        (lane(1, 2, 1, 3), 1),
        (lane(2, 3, 2, 1), 1),
    ];
    let served = count_served(&ready_lanes, 100, 120);
    assert!(is_close(served[&1], 1000.0, 5.0), "{served:?}");
    assert!(is_close(served[&2], 3000.0, 5.0), "{served:?}");
    assert!(is_close(served[&3], 8000.0, 5.0), "{served:?}");
}

#[test]
fn large_parcels_count_against_later_rounds() {
    let ready_lanes = [(lane(1, 1, 1, 1), 500), (lane(2, 2, 1, 1), 1)];
    let served = count_served(&ready_lanes, 1000, 20);
    assert!(is_close(served[&1], served[&2], 520.0), "{served:?}");
}

#[test]
fn idle_time_is_not_saved_up() {
    let mut fair = FairShare::default();
    let (busy, idle) = (lane(1, 1, 1, 1), lane(2, 2, 1, 1));
    for _ in 0..100 {
        for (id, share) in fair.allocate(&[busy], 100) {
            fair.record_claimed(1, id, share);
        }
    }
    let shares: HashMap<i64, u32> = fair.allocate(&[busy, idle], 100).into_iter().collect();
    // At most the jobs of the busy lane in its last round.
    assert!(shares[&2] <= 100 && shares.values().sum::<u32>() == 100);
    fair.record_claimed(2, 2, shares[&2]);
    fair.record_claimed(1, 1, shares.get(&1).copied().unwrap_or_default());
    let shares: HashMap<i64, u32> = fair.allocate(&[busy, idle], 100).into_iter().collect();
    assert_eq!(shares[&1], 50, "{shares:?}");
}

#[test]
fn stored_totals_outlive_the_worker() {
    let mut fair = FairShare::default();
    let (greedy, other) = (lane(1, 1, 1, 1), lane(2, 2, 1, 1));
    fair.allocate(&[greedy, other], 10);
    fair.record_claimed(1, 1, 500);
    let saved = fair.unsaved_totals();
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
    let mut served: HashMap<i64, u32> = HashMap::new();
    for turn in 0..200 {
        let ready_lanes = if turn % 5 == 0 {
            vec![old, young]
        } else {
            vec![young]
        };
        for (id, share) in fair.allocate(&ready_lanes, 100) {
            let jobs = if id == 1 { 1 } else { share };
            fair.record_claimed(i32::try_from(id).unwrap(), id, jobs);
            *served.entry(id).or_default() += jobs;
        }
        if turn % 10 == 0 {
            for total in fair.unsaved_totals() {
                let stored: &mut f64 = database.get_mut(&total.tenant).unwrap();
                *stored = (*stored + total.unsaved_part).max(total.saved_part + total.unsaved_part);
                fair.record_saved(total.tenant, total.unsaved_part, *stored);
            }
            fair.remove_idle();
        }
    }
    assert!(
        served[&1] >= 39,
        "had work forty times, was served {} times",
        served[&1]
    );
}

proptest! {
    #[test]
    fn budget_is_used_up_and_not_exceeded(
        lanes in prop::collection::vec((1i32..6, 1i16..10, 0u32..2000), 1..40),
        budget in 1u32..5000,
    ) {
        let mut fair = FairShare::default();
        let ready_lanes: Vec<WeightedLane> = lanes
            .iter()
            .zip(1..)
            .map(|((tenant, weight, _), id)| lane(*tenant, id, 1, *weight))
            .collect();
        fair.allocate(&ready_lanes, 1);
        for (ready, (_, _, before)) in ready_lanes.iter().zip(&lanes) {
            fair.record_claimed(ready.tenant, ready.lane, *before);
        }
        let shares = fair.allocate(&ready_lanes, budget);
        let served: u32 = shares.iter().map(|(_, share)| share).sum();
        prop_assert!(served <= budget);
        // Rounding can leave less than one job per lane to the next round.
        prop_assert!(served + u32::try_from(lanes.len()).unwrap() >= budget, "{served} of {budget}");
        prop_assert!(shares.iter().all(|(_, share)| *share > 0));
    }

    #[test]
    fn tenants_get_their_weighted_share_over_time(
        weights in prop::collection::vec((1i16..5, 1u32..200), 2..8),
    ) {
        let ready_lanes: Vec<(WeightedLane, u32)> = weights
            .iter()
            .zip(1..)
            .map(|((weight, parcel), id)| (lane(id, i64::from(id), *weight, 1), *parcel))
            .collect();
        let served = count_served(&ready_lanes, 2000, 50);
        let total: f64 = served.values().sum();
        let total_weight: f64 = weights.iter().map(|(weight, _)| f64::from(*weight)).sum();
        for (ready, _) in &ready_lanes {
            let fair = total * f64::from(ready.tenant_weight) / total_weight;
            let jobs = served[&ready.lane];
            prop_assert!(is_close(jobs, fair, fair * 0.05 + 250.0), "{jobs} for {fair}: {served:?}");
        }
    }
}
