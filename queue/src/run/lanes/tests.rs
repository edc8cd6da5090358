//! What a worker knows of its lanes, and whom it asks from where.

use chrono::{DateTime, Utc};

use super::*;

const ROOM: Room = Room {
    places: 100,
    ahead: 0,
    bytes: u32::MAX,
    lost: true,
};

fn one_lane() -> Lanes {
    let mut lanes = Lanes::default();
    let sight = Sight {
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
    lanes.see(&[sight], 1, Instant::now());
    lanes
}

fn mark(second: i64) -> Mark {
    Mark {
        priority: 5,
        run_at: DateTime::<Utc>::from_timestamp(second, 0).unwrap(),
    }
}

/// The lane gave a hundred rows up to this one, and may have more or not.
fn answer(lanes: &mut Lanes, state: LaneState, last: Option<Mark>, at: Instant) {
    let report = Report {
        lane: 7,
        rows: if last.is_some() { 100 } else { 0 },
        state,
    };
    let given = Given {
        jobs: report.rows,
        last,
    };
    let claim = Claim {
        at,
        took: Duration::from_millis(1),
        lost_sought: false,
    };
    lanes.report(report, given, claim);
}

fn asks_from(lanes: &mut Lanes, at: Instant) -> Vec<Begin> {
    let portions = lanes.portions(ROOM, &InHand::default(), at);
    portions.iter().map(|portion| portion.from).collect()
}

#[test]
fn a_lane_that_is_drained_is_asked_for_what_stands_behind_what_it_gave() {
    let (mut lanes, at) = (one_lane(), Instant::now());
    assert_eq!(asks_from(&mut lanes, at), [Begin::First]);
    answer(&mut lanes, LaneState::More, Some(mark(10)), at);
    assert_eq!(asks_from(&mut lanes, at), [Begin::At(mark(10))]);
    answer(&mut lanes, LaneState::More, Some(mark(20)), at);
    assert_eq!(asks_from(&mut lanes, at), [Begin::At(mark(20))]);
}

#[test]
fn a_lane_with_nothing_behind_what_it_gave_is_asked_from_its_first_job_before_it_counts_as_spent() {
    let (mut lanes, at) = (one_lane(), Instant::now());
    lanes.portions(ROOM, &InHand::default(), at);
    answer(&mut lanes, LaneState::More, Some(mark(10)), at);
    lanes.portions(ROOM, &InHand::default(), at);
    answer(&mut lanes, LaneState::Spent, Some(mark(20)), at);
    assert_eq!(asks_from(&mut lanes, at), [Begin::First]);
    answer(&mut lanes, LaneState::Spent, None, at);
    assert_eq!(asks_from(&mut lanes, at), []);
}

#[test]
fn a_lane_is_asked_from_its_first_job_every_now_and_then_while_it_is_drained() {
    let (mut lanes, begun) = (one_lane(), Instant::now());
    let mut from_first = Vec::new();
    for ms in 0..1000 {
        let at = begun + Duration::from_millis(ms);
        if asks_from(&mut lanes, at) == [Begin::First] {
            from_first.push(ms);
        }
        answer(&mut lanes, LaneState::More, Some(mark(10)), at);
    }
    assert_eq!(from_first.len(), 20, "{from_first:?}");
}

#[test]
fn a_look_leaves_out_the_lanes_that_are_being_drained_and_keeps_them() {
    let (mut lanes, at) = (one_lane(), Instant::now());
    assert_eq!(lanes.stretches(2, at), [(0, i64::MAX)]);
    lanes.portions(ROOM, &InHand::default(), at);
    answer(&mut lanes, LaneState::More, Some(mark(10)), at);
    assert_eq!(lanes.stretches(3, at), [(0, 7), (7, i64::MAX)]);
    lanes.see(&[], 3, at);
    assert_eq!(asks_from(&mut lanes, at), [Begin::At(mark(10))]);
    let later = at + Duration::from_secs(1);
    assert_eq!(lanes.stretches(4, later), [(0, i64::MAX)]);
    lanes.see(&[], 4, later);
    assert_eq!(asks_from(&mut lanes, later), []);
}

proptest::proptest! {
    /// Whatever a lane gives and however fast, it is asked for what has waited longest every so often.
    #[test]
    fn no_priority_of_a_lane_waits_for_ever(
        answers in proptest::collection::vec((0u8..4, 0u64..200), 200..400),
    ) {
        let mut lanes = one_lane();
        let mut at = Instant::now();
        let mut asked_first = 0;
        for (second, (answered, passed)) in (1..).zip(answers) {
            at += Duration::from_millis(passed);
            match asks_from(&mut lanes, at).first() {
                Some(Begin::LongestWaiting) => asked_first = 0,
                Some(Begin::First) => asked_first += 1,
                // It goes on for a second at most.
                Some(Begin::At(_)) | None => {}
            }
            proptest::prop_assert!(asked_first < AGEING);
            let state = if answered == 0 { LaneState::Closed } else { LaneState::More };
            answer(&mut lanes, state, (answered > 1).then(|| mark(second)), at);
        }
    }
}

#[test]
fn a_claim_of_what_has_waited_longest_leaves_no_mark() {
    let (mut lanes, mut at) = (one_lane(), Instant::now());
    while asks_from(&mut lanes, at) != [Begin::LongestWaiting] {
        answer(&mut lanes, LaneState::More, None, at);
        at += ONWARD;
    }
    answer(&mut lanes, LaneState::More, Some(mark(10)), at);
    assert_eq!(asks_from(&mut lanes, at), [Begin::First]);
    // Nor is the lane taken for spent when nothing stands behind that place.
    while asks_from(&mut lanes, at) != [Begin::LongestWaiting] {
        answer(&mut lanes, LaneState::More, None, at);
        at += ONWARD;
    }
    answer(&mut lanes, LaneState::Spent, None, at);
    assert_eq!(asks_from(&mut lanes, at), [Begin::First]);
}
