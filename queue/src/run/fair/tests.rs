//! What fairness must hold to, whoever has work and however large the parcels are.

use proptest::prelude::*;

use super::*;

fn lane(tenant: i32, lane: i64, tenant_weight: i16, lane_weight: i16) -> Waiting {
    Waiting {
        lane,
        tenant,
        lane_weight,
        tenant_weight,
    }
}

/// Jobs each lane is given while all always have work, in parcels of the lane's own size.
fn serve(waiting: &[(Waiting, u32)], turns: usize, budget: u32) -> HashMap<i64, f64> {
    let mut fair = Fair::default();
    let mut given: HashMap<i64, f64> = HashMap::new();
    let lanes: Vec<Waiting> = waiting.iter().map(|(lane, _)| *lane).collect();
    for _ in 0..turns {
        for (id, share) in fair.shares(&lanes, budget) {
            let (lane, parcel) = waiting.iter().find(|(lane, _)| lane.lane == id).unwrap();
            // Whole parcels: as many as it takes to make the share.
            let jobs = share.div_ceil(*parcel) * parcel;
            fair.served(lane.tenant, id, jobs);
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
fn large_parcels_are_paid_for_in_later_turns() {
    let waiting = [(lane(1, 1, 1, 1), 500), (lane(2, 2, 1, 1), 1)];
    let given = serve(&waiting, 1000, 20);
    assert!(close(given[&1], given[&2], 520.0), "{given:?}");
}

#[test]
fn whoever_was_idle_has_saved_nothing_up() {
    let mut fair = Fair::default();
    let (busy, idle) = (lane(1, 1, 1, 1), lane(2, 2, 1, 1));
    for _ in 0..100 {
        for (id, share) in fair.shares(&[busy], 100) {
            fair.served(1, id, share);
        }
    }
    let shares: HashMap<i64, u32> = fair.shares(&[busy, idle], 100).into_iter().collect();
    // Of the busy one's last turn, no more.
    assert!(shares[&2] <= 100 && shares.values().sum::<u32>() == 100);
    fair.served(2, 2, shares[&2]);
    fair.served(1, 1, shares.get(&1).copied().unwrap_or_default());
    let shares: HashMap<i64, u32> = fair.shares(&[busy, idle], 100).into_iter().collect();
    assert_eq!(shares[&1], 50, "{shares:?}");
}

#[test]
fn what_was_written_down_outlives_the_worker() {
    let mut fair = Fair::default();
    let (greedy, other) = (lane(1, 1, 1, 1), lane(2, 2, 1, 1));
    fair.shares(&[greedy, other], 10);
    fair.served(1, 1, 500);
    let saved = fair.unsaved();
    assert_eq!(saved.len(), 1);
    let mut next = Fair::default();
    next.remember(greedy, 500.0);
    next.remember(other, 0.0);
    let shares = next.shares(&[greedy, other], 100);
    assert_eq!(shares, [(2, 100)], "the greedy one has had its share");
}

#[test]
fn a_longer_history_than_anothers_is_no_debt() {
    // A worker begins when only the younger of two tenants has work; the older comes later.
    let (old, young) = (lane(1, 1, 1, 1), lane(2, 2, 1, 1));
    let mut fair = Fair::default();
    fair.raise_floor(1_000_000.0);
    fair.remember(young, 100.0);
    let mut database = HashMap::from([(1, 1_000_050.0), (2, 100.0)]);
    let mut given: HashMap<i64, u32> = HashMap::new();
    for turn in 0..200 {
        let waiting = if turn % 5 == 0 {
            vec![old, young]
        } else {
            vec![young]
        };
        for (id, share) in fair.shares(&waiting, 100) {
            let jobs = if id == 1 { 1 } else { share };
            fair.served(i32::try_from(id).unwrap(), id, jobs);
            *given.entry(id).or_default() += jobs;
        }
        if turn % 10 == 0 {
            for saving in fair.unsaved() {
                let known: &mut f64 = database.get_mut(&saving.tenant).unwrap();
                *known = (*known + saving.added).max(saving.base + saving.added);
                fair.saved(saving.tenant, saving.added, *known);
            }
        }
    }
    assert!(
        given[&1] >= 39,
        "asked forty times, served {} times",
        given[&1]
    );
}

proptest! {
    #[test]
    fn no_place_is_left_empty_and_none_is_given_twice(
        lanes in prop::collection::vec((1i32..6, 1i16..10, 0u32..2000), 1..40),
        budget in 1u32..5000,
    ) {
        let mut fair = Fair::default();
        let waiting: Vec<Waiting> = lanes
            .iter()
            .zip(1..)
            .map(|((tenant, weight, _), id)| lane(*tenant, id, 1, *weight))
            .collect();
        fair.shares(&waiting, 1);
        for (waiting, (_, _, before)) in waiting.iter().zip(&lanes) {
            fair.served(waiting.tenant, waiting.lane, *before);
        }
        let shares = fair.shares(&waiting, budget);
        let given: u32 = shares.iter().map(|(_, share)| share).sum();
        prop_assert!(given <= budget);
        // Rounding may leave less than one job a lane to the next turn.
        prop_assert!(given + u32::try_from(lanes.len()).unwrap() >= budget, "{given} of {budget}");
        prop_assert!(shares.iter().all(|(_, share)| *share > 0));
    }

    #[test]
    fn over_time_everybody_gets_what_its_weight_says(
        weights in prop::collection::vec((1i16..5, 1u32..200), 2..8),
    ) {
        let waiting: Vec<(Waiting, u32)> = weights
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
