//! The targets of the design beside the measured figures.

use crate::measures::{ALL_WELL, CHARGES, GET_JOB, HOT_CHARGES, TWO_ILL};
use crate::ours::Rows;
use crate::table::{Results, number};

/// A target of the design.
pub(crate) struct Target {
    name: &'static str,
    bound: Bound,
    unit: &'static str,
    measured: fn(&Results) -> Option<f64>,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A target with its measured figure.
pub(crate) struct JudgedTarget {
    pub(crate) name: &'static str,
    pub(crate) wanted: String,
    pub(crate) measured: Option<f64>,
    pub(crate) shown: String,
    pub(crate) met: Option<bool>,
}

const HARKARA: &str = "Harkara";

fn packed() -> &'static str {
    Rows::Packed.contender()
}

fn single() -> &'static str {
    Rows::Single.contender()
}

/// The best of Harkara's enqueue modes in a column where more is better.
fn best(results: &Results, section: &str, column: usize) -> Option<f64> {
    crate::ours::enqueue::EnqueueMode::ALL
        .iter()
        .filter_map(|mode| results.median(section, mode.contender(), column))
        .max_by(f64::total_cmp)
}

/// The best of Harkara's enqueue modes in a column where less is better.
fn least(results: &Results, section: &str, column: usize) -> Option<f64> {
    crate::ours::enqueue::EnqueueMode::ALL
        .iter()
        .filter_map(|mode| results.median(section, mode.contender(), column))
        .min_by(f64::total_cmp)
}

fn over_best_peer(results: &Results, contender: &str) -> Option<f64> {
    Some(results.median("drain", contender, 0)? / results.best_peer("drain")?)
}

const TARGETS: &[Target] = &[
    Target {
        name: "drain, packed",
        bound: Bound::AtLeast(300_000.0),
        unit: "jobs/s",
        measured: |results| results.median("drain", packed(), 0),
    },
    Target {
        name: "drain, one row a job",
        bound: Bound::AtLeast(80_000.0),
        unit: "jobs/s",
        measured: |results| results.median("drain", single(), 0),
    },
    Target {
        name: "drain, packed, over the best Postgres peer as tuned",
        bound: Bound::AtLeast(10.0),
        unit: "×",
        measured: |results| over_best_peer(results, packed()),
    },
    Target {
        name: "drain, one row a job, over the best Postgres peer as tuned",
        bound: Bound::AtLeast(3.0),
        unit: "×",
        measured: |results| over_best_peer(results, single()),
    },
    Target {
        name: "drain, one row a job, over apalis-postgres",
        bound: Bound::AtLeast(8.0),
        unit: "×",
        measured: |results| {
            let peer = results.median("drain", "apalis-postgres", 0)?;
            Some(results.median("drain", single(), 0)? / peer)
        },
    },
    Target {
        name: "16 concurrent durable pushes",
        bound: Bound::AtLeast(40_000.0),
        unit: "jobs/s",
        measured: |results| best(results, "single", 0),
    },
    Target {
        name: "bulk enqueue, 200 random bytes",
        bound: Bound::AtLeast(500_000.0),
        unit: "jobs/s",
        measured: |results| results.median("bulk-200", packed(), 0),
    },
    Target {
        name: "`POST /v1/jobs` from 64 connections",
        bound: Bound::AtLeast(15_000.0),
        unit: "requests/s",
        measured: |results| results.median("http", HARKARA, 0),
    },
    Target {
        name: "one batch request of 10 000 jobs",
        bound: Bound::AtMost(50.0),
        unit: "ms",
        measured: |results| results.median("http", HARKARA, 1),
    },
    Target {
        name: "authenticated `GET /v1/jobs/{id}` at 200/s, p99",
        bound: Bound::AtMost(20.0),
        unit: "ms",
        measured: |results| results.median("requests", GET_JOB, 2),
    },
    Target {
        name: "a charge of request limits at 200/s, p99",
        bound: Bound::AtMost(1.0),
        unit: "ms",
        measured: |results| results.median("requests", CHARGES, 2),
    },
    Target {
        name: "a charge of a hot key's limits at full speed, p99",
        bound: Bound::AtMost(1.0),
        unit: "ms",
        measured: |results| results.median("requests", HOT_CHARGES, 2),
    },
    Target {
        name: "enqueue to start at 50/s, p50",
        bound: Bound::AtMost(2.5),
        unit: "ms",
        measured: |results| least(results, "latency-50", 0),
    },
    Target {
        name: "enqueue to start at 50/s, p99",
        bound: Bound::AtMost(7.0),
        unit: "ms",
        measured: |results| least(results, "latency-50", 2),
    },
    Target {
        name: "snapshot held over dead entries, packed",
        bound: Bound::AtMost(1.5),
        unit: "times slower",
        measured: |results| results.median("held", packed(), 2),
    },
    Target {
        name: "snapshot held over dead entries, one row a job",
        bound: Bound::AtMost(1.5),
        unit: "times slower",
        measured: |results| results.median("held", single(), 2),
    },
    Target {
        name: "beside a backlog, packed",
        bound: Bound::AtMost(1.2),
        unit: "times slower",
        measured: |results| results.median("backlog", packed(), 2),
    },
    Target {
        name: "beside a backlog, one row a job",
        bound: Bound::AtMost(1.2),
        unit: "times slower",
        measured: |results| results.median("backlog", single(), 2),
    },
    Target {
        name: "quiet tenant beside a backlog that drains, p99",
        bound: Bound::AtMost(50.0),
        unit: "ms",
        measured: |results| results.median("quiet", HARKARA, 2),
    },
    Target {
        name: "a limit of 30/min, burst 3: most starts in any minute",
        bound: Bound::AtMost(33.0),
        unit: "starts",
        measured: |results| results.median("limits", "Harkara, 30/min, burst 3", 0),
    },
    Target {
        name: "a limit of 100/s, burst 10: most starts in any second",
        bound: Bound::AtMost(110.0),
        unit: "starts",
        measured: |results| results.median("limits", "Harkara, 100/s, burst 10", 0),
    },
    Target {
        name: "write-ahead log a job, one row a job, enqueue and drain",
        bound: Bound::AtMost(500.0),
        unit: "bytes",
        measured: |results| {
            let enqueue = results.median("bulk", single(), 1)?;
            Some(enqueue + results.median("drain", single(), 1)?)
        },
    },
    Target {
        name: "webhook deliveries to a local sink",
        bound: Bound::AtLeast(5_000.0),
        unit: "deliveries/s",
        measured: |results| results.median("webhooks", HARKARA, 0),
    },
    Target {
        name: "p99 of deliveries to 98 endpoints beside one that hangs and one that fails, against without",
        bound: Bound::AtMost(2.0),
        unit: "times",
        measured: |results| {
            let ill = results.median("webhook-latency", TWO_ILL, 2)?;
            Some(ill / results.median("webhook-latency", ALL_WELL, 2)?)
        },
    },
    Target {
        name: "the slowest list, look or count beside 20 million jobs, p99",
        bound: Bound::AtMost(50.0),
        unit: "ms",
        measured: |results| results.most("steering", 2),
    },
    Target {
        name: "memory of a worker with 1000 jobs in flight",
        bound: Bound::AtMost(150.0),
        unit: "MiB",
        measured: |results| results.median("memory", HARKARA, 0),
    },
    Target {
        name: "idle platform, processor",
        bound: Bound::AtMost(1.0),
        unit: "% of a core",
        measured: |results| results.median("idle", HARKARA, 0),
    },
    Target {
        name: "idle platform, database",
        bound: Bound::AtMost(5.0),
        unit: "transactions/s",
        measured: |results| results.median("idle", HARKARA, 1),
    },
];

/// Every target with its measured figure.
pub(crate) fn evaluate_targets(results: &Results) -> impl Iterator<Item = JudgedTarget> {
    TARGETS.iter().map(|target| {
        let measured = (target.measured)(results);
        let (sign, bound) = match target.bound {
            Bound::AtLeast(bound) => ("≥", bound),
            Bound::AtMost(bound) => ("≤", bound),
        };
        let unit = target.unit;
        JudgedTarget {
            name: target.name,
            wanted: format!("{sign} {} {unit}", number(bound)),
            measured,
            shown: measured.map_or_else(
                || "not measured".to_owned(),
                |value| format!("{} {unit}", number(value)),
            ),
            met: measured.map(|value| match target.bound {
                Bound::AtLeast(bound) => value >= bound,
                Bound::AtMost(bound) => value <= bound,
            }),
        }
    })
}
