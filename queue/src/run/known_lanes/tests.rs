//! Tests of which lanes a worker claims from, and where it starts in them.

use chrono::{DateTime, Utc};

use super::*;

const CAPACITY: ClaimCapacity = ClaimCapacity {
    slots: 100,
    prefetch: 0,
    bytes: u32::MAX,
    lost: true,
};

fn one_lane() -> KnownLanes {
    let mut lanes = KnownLanes::default();
    let ready = ReadyLane {
        queue: 1,
        lane: 7,
        nth: Some(1),
        tenant: 1,
        lane_weight: 1,
        tenant_weight: 1,
        paused: false,
        named: false,
        wait_ms: None,
    };
    lanes.add_found(&[ready], 1, Instant::now());
    lanes
}

fn position(second: i64) -> ScanPosition {
    ScanPosition {
        priority: 5,
        run_at: DateTime::<Utc>::from_timestamp(second, 0).unwrap(),
    }
}

/// Records a claim that got a hundred rows up to `last`, or none.
fn record(
    lanes: &mut KnownLanes,
    availability: LaneAvailability,
    last: Option<ScanPosition>,
    at: Instant,
) {
    let outcome = LaneOutcome {
        lane: 7,
        rows: if last.is_some() { 100 } else { 0 },
        availability,
    };
    let claimed = ClaimedFromLane {
        jobs: outcome.rows,
        last,
    };
    let claim = AnsweredClaim {
        answered_at: at,
        duration: Duration::from_millis(1),
        found_no_lost: false,
    };
    lanes.record_outcome(outcome, claimed, claim);
}

fn claim_starts(lanes: &mut KnownLanes, at: Instant) -> Vec<ScanStart> {
    let claims = lanes.plan_claim(CAPACITY, &LaneLoad::default(), at);
    claims.iter().map(|claim| claim.start).collect()
}

#[test]
fn claims_of_a_drained_lane_continue_where_the_last_one_ended() {
    let (mut lanes, at) = (one_lane(), Instant::now());
    assert_eq!(claim_starts(&mut lanes, at), [ScanStart::First]);
    record(&mut lanes, LaneAvailability::More, Some(position(10)), at);
    assert_eq!(claim_starts(&mut lanes, at), [ScanStart::At(position(10))]);
    record(&mut lanes, LaneAvailability::More, Some(position(20)), at);
    assert_eq!(claim_starts(&mut lanes, at), [ScanStart::At(position(20))]);
}

#[test]
fn continued_lane_is_claimed_from_its_first_row_before_it_counts_as_exhausted() {
    let (mut lanes, at) = (one_lane(), Instant::now());
    lanes.plan_claim(CAPACITY, &LaneLoad::default(), at);
    record(&mut lanes, LaneAvailability::More, Some(position(10)), at);
    lanes.plan_claim(CAPACITY, &LaneLoad::default(), at);
    record(
        &mut lanes,
        LaneAvailability::Exhausted,
        Some(position(20)),
        at,
    );
    assert_eq!(claim_starts(&mut lanes, at), [ScanStart::First]);
    record(&mut lanes, LaneAvailability::Exhausted, None, at);
    assert_eq!(claim_starts(&mut lanes, at), []);
}

#[test]
fn drained_lane_is_claimed_from_its_first_row_from_time_to_time() {
    let (mut lanes, started_at) = (one_lane(), Instant::now());
    let mut from_first = Vec::new();
    for ms in 0..1000 {
        let at = started_at + Duration::from_millis(ms);
        if claim_starts(&mut lanes, at) == [ScanStart::First] {
            from_first.push(ms);
        }
        record(&mut lanes, LaneAvailability::More, Some(position(10)), at);
    }
    assert_eq!(from_first.len(), 20, "{from_first:?}");
}

#[test]
fn search_skips_drained_lanes_and_keeps_them() {
    let (mut lanes, at) = (one_lane(), Instant::now());
    assert_eq!(lanes.search_ranges(2, at), [(0, i64::MAX)]);
    lanes.plan_claim(CAPACITY, &LaneLoad::default(), at);
    record(&mut lanes, LaneAvailability::More, Some(position(10)), at);
    assert_eq!(lanes.search_ranges(3, at), [(0, 7), (7, i64::MAX)]);
    lanes.add_found(&[], 3, at);
    assert_eq!(claim_starts(&mut lanes, at), [ScanStart::At(position(10))]);
    let later = at + Duration::from_secs(1);
    assert_eq!(lanes.search_ranges(4, later), [(0, i64::MAX)]);
    lanes.add_found(&[], 4, later);
    assert_eq!(claim_starts(&mut lanes, later), []);
}

proptest::proptest! {
    /// Whatever a lane gives, its longest waiting priority is claimed first from time to time.
    #[test]
    fn no_priority_of_a_lane_waits_forever(
        answers in proptest::collection::vec((0u8..4, 0u64..200), 200..400),
    ) {
        let mut lanes = one_lane();
        let mut at = Instant::now();
        let mut fresh_starts = 0;
        for (second, (answered, passed_ms)) in (1..).zip(answers) {
            at += Duration::from_millis(passed_ms);
            match claim_starts(&mut lanes, at).first() {
                Some(ScanStart::LongestWaiting) => fresh_starts = 0,
                Some(ScanStart::First) => fresh_starts += 1,
                // A continuation lasts a second at most.
                Some(ScanStart::At(_)) | None => {}
            }
            proptest::prop_assert!(fresh_starts < LONGEST_WAITING_EVERY);
            let availability = if answered == 0 { LaneAvailability::Closed } else { LaneAvailability::More };
            record(&mut lanes, availability, (answered > 1).then(|| position(second)), at);
        }
    }
}

#[test]
fn claim_of_the_longest_waiting_priority_is_not_continued() {
    let (mut lanes, mut at) = (one_lane(), Instant::now());
    while claim_starts(&mut lanes, at) != [ScanStart::LongestWaiting] {
        record(&mut lanes, LaneAvailability::More, None, at);
        at += MIN_CONTINUATION;
    }
    record(&mut lanes, LaneAvailability::More, Some(position(10)), at);
    assert_eq!(claim_starts(&mut lanes, at), [ScanStart::First]);
    // Nor does the lane count as exhausted if no row follows that position.
    while claim_starts(&mut lanes, at) != [ScanStart::LongestWaiting] {
        record(&mut lanes, LaneAvailability::More, None, at);
        at += MIN_CONTINUATION;
    }
    record(&mut lanes, LaneAvailability::Exhausted, None, at);
    assert_eq!(claim_starts(&mut lanes, at), [ScanStart::First]);
}
