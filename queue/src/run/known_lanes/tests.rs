//! Tests which lanes a worker claims from, and where its scans start.

use chrono::{DateTime, Utc};

use super::*;

const CAPACITY: ClaimCapacity = ClaimCapacity {
    slots: 100,
    prefetch: 0,
    bytes: u32::MAX,
    accepts_lost_jobs: true,
};

fn one_lane() -> KnownLanes {
    let mut lanes = KnownLanes::default();
    let ready = ReadyLane {
        queue: 1,
        lane: 7,
        found_by: FoundBy::Jobs(1),
        tenant: 1,
        lane_weight: 1,
        tenant_weight: 1,
        is_paused: false,
        is_keyed: false,
        wait_ms: None,
    };
    lanes.add_ready_lanes(&[ready], 1, Instant::now());
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
        last_position: last,
    };
    let claim = ClaimStats {
        ended_at: at,
        duration: Duration::from_millis(1),
        lost_jobs_ruled_out: false,
    };
    lanes.record_outcome(outcome, claimed, claim);
}

fn claim_starts(lanes: &mut KnownLanes, at: Instant) -> Vec<ScanStart> {
    let claims = lanes.plan_claim(CAPACITY, &LaneLoad::default(), at);
    claims.iter().map(|claim| claim.start).collect()
}

#[test]
fn claim_resumes_where_the_previous_claim_of_the_lane_ended() {
    let (mut lanes, at) = (one_lane(), Instant::now());
    assert_eq!(claim_starts(&mut lanes, at), [ScanStart::First]);
    record(&mut lanes, LaneAvailability::More, Some(position(10)), at);
    assert_eq!(claim_starts(&mut lanes, at), [ScanStart::At(position(10))]);
    record(&mut lanes, LaneAvailability::More, Some(position(20)), at);
    assert_eq!(claim_starts(&mut lanes, at), [ScanStart::At(position(20))]);
}

#[test]
fn lane_with_a_cursor_is_scanned_from_its_first_row_before_it_is_removed() {
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
fn cursor_expires_so_that_the_first_row_is_read_regularly() {
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
fn search_skips_and_keeps_lanes_with_a_live_cursor() {
    let (mut lanes, at) = (one_lane(), Instant::now());
    assert_eq!(lanes.search_ranges(2, at), [(0, i64::MAX)]);
    lanes.plan_claim(CAPACITY, &LaneLoad::default(), at);
    record(&mut lanes, LaneAvailability::More, Some(position(10)), at);
    assert_eq!(lanes.search_ranges(3, at), [(0, 7), (7, i64::MAX)]);
    lanes.add_ready_lanes(&[], 3, at);
    assert_eq!(claim_starts(&mut lanes, at), [ScanStart::At(position(10))]);
    let later = at + Duration::from_secs(1);
    assert_eq!(lanes.search_ranges(4, later), [(0, i64::MAX)]);
    lanes.add_ready_lanes(&[], 4, later);
    assert_eq!(claim_starts(&mut lanes, later), []);
}

proptest::proptest! {
    /// Whatever a lane gives, every few scans start at its longest waiting priority.
    #[test]
    fn no_priority_of_a_lane_waits_forever(
        steps in proptest::collection::vec((0u8..4, 0u64..200), 200..400),
    ) {
        let mut lanes = one_lane();
        let mut at = Instant::now();
        let mut scans_without_cursor = 0;
        for (second, (outcome, passed_ms)) in (1..).zip(steps) {
            at += Duration::from_millis(passed_ms);
            match claim_starts(&mut lanes, at).first() {
                Some(ScanStart::LongestWaiting) => scans_without_cursor = 0,
                Some(ScanStart::First) => scans_without_cursor += 1,
                // A cursor expires after at most a second.
                Some(ScanStart::At(_)) | None => {}
            }
            proptest::prop_assert!(scans_without_cursor < LONGEST_WAITING_EVERY);
            let availability = if outcome == 0 { LaneAvailability::Blocked } else { LaneAvailability::More };
            record(&mut lanes, availability, (outcome > 1).then(|| position(second)), at);
        }
    }
}

#[test]
fn claim_of_the_longest_waiting_priority_sets_no_cursor() {
    let (mut lanes, mut at) = (one_lane(), Instant::now());
    while claim_starts(&mut lanes, at) != [ScanStart::LongestWaiting] {
        record(&mut lanes, LaneAvailability::More, None, at);
        at += MIN_CURSOR_LIFETIME;
    }
    record(&mut lanes, LaneAvailability::More, Some(position(10)), at);
    assert_eq!(claim_starts(&mut lanes, at), [ScanStart::First]);
    // The lane is not removed either if that claim finds no further row.
    while claim_starts(&mut lanes, at) != [ScanStart::LongestWaiting] {
        record(&mut lanes, LaneAvailability::More, None, at);
        at += MIN_CURSOR_LIFETIME;
    }
    record(&mut lanes, LaneAvailability::Exhausted, None, at);
    assert_eq!(claim_starts(&mut lanes, at), [ScanStart::First]);
}

#[test]
fn claimed_rows_without_jobs_do_not_unbound_the_next_claim() {
    let (mut lanes, at) = (one_lane(), Instant::now());
    lanes.plan_claim(CAPACITY, &LaneLoad::default(), at);
    let outcome = LaneOutcome {
        lane: 7,
        rows: 1,
        availability: LaneAvailability::More,
    };
    let claim = ClaimStats {
        ended_at: at,
        duration: Duration::from_millis(1),
        lost_jobs_ruled_out: false,
    };
    lanes.record_outcome(outcome, ClaimedFromLane::default(), claim);
    let claims = lanes.plan_claim(CAPACITY, &LaneLoad::default(), at);
    assert_eq!(claims[0].max_rows, 100);
}
