//! The sections of the results, in their order: titles, explanations and columns.

use crate::table::Section;

/// A section by its name.
pub(crate) const SECTIONS: &[Section] = &[
    Section {
        id: "drain",
        title: "Drain",
        description: "Waiting jobs without work to do, run by one worker process. Harkara's clock runs \
               from the start of its worker until the worker has stopped and every outcome is \
               durable, history kept; a peer's stops when its last handler has run. `packed`: as \
               bulk calls of 1000 store them. `one row a job`: every job has a due time of its own, \
               so that none shares a row; checked by counting.",
        columns: &["jobs/s", "WAL bytes/job", "transactions/1000 jobs"],
        more_is_better: true,
    },
    Section {
        id: "defaults",
        title: "Drain with default settings",
        description: "The same with untuned peers, where their defaults can be timed. Harkara's figures \
               are those of the drain above: it is not tuned.",
        columns: &["jobs/s"],
        more_is_better: true,
    },
    Section {
        id: "bulk",
        title: "Bulk enqueue",
        description: "One caller, 1000 jobs per call, payloads of 48 bytes.",
        columns: &["jobs/s", "WAL bytes/job", "transactions/1000 jobs"],
        more_is_better: true,
    },
    Section {
        id: "bulk-200",
        title: "Bulk enqueue of random bytes",
        description: "As above with payloads of 200 bytes that do not compress.",
        columns: &["jobs/s", "WAL bytes/job", "transactions/1000 jobs"],
        more_is_better: true,
    },
    Section {
        id: "single",
        title: "Single enqueue",
        description: "16 callers in one process, each of which waits for the durable answer before its \
               next job. `coalesced`: jobs of callers that wait at the same time are written \
               together, as the API does. `own transaction`: each job in a transaction of its own, \
               as together with an application's own writes.",
        columns: &["jobs/s", "WAL bytes/job", "transactions/1000 jobs"],
        more_is_better: true,
    },
    Section {
        id: "latency-50",
        title: "Latency at 50 jobs a second",
        description: "Milliseconds from the enqueue call to the start of the handler; sent at an even pace, \
               whether or not earlier jobs have started. Producer and worker in one process.",
        columns: &["p50", "p95", "p99", "max"],
        more_is_better: false,
    },
    Section {
        id: "latency-1000",
        title: "Latency at 1000 jobs a second",
        description: "The same at 1000 a second. A latency of seconds means that the contender does not \
               keep up.",
        columns: &["p50", "p95", "p99", "max"],
        more_is_better: false,
    },
    Section {
        id: "held",
        title: "A snapshot held over dead entries",
        description: "Another session holds a snapshot while many jobs are run, as a forgotten transaction \
               or a long report does; then new jobs are drained. `free`: the same without the \
               snapshot. Both are vacuumed first.",
        columns: &["held, jobs/s", "free, jobs/s", "times slower"],
        more_is_better: true,
    },
    Section {
        id: "backlog",
        title: "Beside a backlog",
        description: "The first jobs of a large backlog, compared with as many from a table that holds few \
               more. The clock stops when the last of them has run.",
        columns: &["with, jobs/s", "without, jobs/s", "times slower"],
        more_is_better: true,
    },
    Section {
        id: "history",
        title: "Beside a history",
        description: "New jobs after many finished ones were kept, compared with an empty table. Only \
               contenders that keep finished jobs.",
        columns: &["with, jobs/s", "without, jobs/s", "times slower"],
        more_is_better: true,
    },
    Section {
        id: "quiet",
        title: "Quiet tenants beside a noisy one",
        description: "One tenant's backlog drains at full speed while 500 others post 50 jobs a second \
               together: milliseconds from their enqueue calls to the starts of their handlers.",
        columns: &["p50", "p95", "p99", "max", "noisy tenant, jobs/s"],
        more_is_better: false,
    },
    Section {
        id: "shares",
        title: "Even shares",
        description: "100 tenants, the nth with an nth of the first one's backlog, all with work left. \
               Jain's index of their starts: 1 if all got the same, 0.01 if one got everything.",
        columns: &["index"],
        more_is_better: true,
    },
    Section {
        id: "limits",
        title: "Limits over two workers",
        description: "A limited tenant with more ready jobs than its limit allows, and two workers on \
               connections of their own. A limit with a burst allows at most limit + burst starts \
               in any window as long as the limit's. A job is started, and charged, when it is \
               claimed (`started_at`, the database's clock); its handler begins when the worker \
               gets to it.",
        columns: &[
            "most starts in any window",
            "average starts a window",
            "most handlers begun in any window",
        ],
        more_is_better: false,
    },
    Section {
        id: "http",
        title: "HTTP",
        description: "A real API process. Single jobs over 64 kept-alive connections, each answered when its \
               job is durable; one request of 10 000 jobs, the median of five.",
        columns: &["POST /v1/jobs, requests/s", "batch of 10 000, ms"],
        more_is_better: true,
    },
    Section {
        id: "requests",
        title: "Requests at an even pace, and their limits",
        description: "Milliseconds. Authenticated requests to a real API process over 16 connections, sent at an \
               even pace, whether or not earlier ones were answered; a charge of a key's limits alone \
               (`RequestLimits`), over two replicas with connections of their own. At full speed, four \
               callers at each replica charge again as soon as they are answered.",
        columns: &["p50", "p95", "p99", "max"],
        more_is_better: false,
    },
    Section {
        id: "webhooks",
        title: "Webhook deliveries",
        description: "A real worker process delivers a backlog of events, each to five endpoints on this machine, \
               signed, each attempt in the log.",
        columns: &["deliveries/s"],
        more_is_better: true,
    },
    Section {
        id: "webhook-latency",
        title: "Webhook deliveries beside failing endpoints",
        description: "Milliseconds from an event's commit to its arrival at each of 98 endpoints, five \
               events per second, through a real worker process.",
        columns: &["p50", "p95", "p99", "max"],
        more_is_better: false,
    },
    Section {
        id: "steering",
        title: "Reading a large database",
        description: "Milliseconds of requests to a real API process, one after another, beside 20 million \
               finished and 2 million ready jobs of ten tenants (the tables are filled by SQL: of \
               the finished jobs, half are in packed rows, three tenths in merged rows, and a fifth \
               in rows of their own), and 90 days of statistics.",
        columns: &["p50", "p95", "p99", "max"],
        more_is_better: false,
    },
    Section {
        id: "memory",
        title: "Memory",
        description: "Resident memory of a worker process that runs 1000 jobs at once.",
        columns: &["MiB"],
        more_is_better: false,
    },
    Section {
        id: "idle",
        title: "Idle",
        description: "API, worker and scheduler as three processes, without work.",
        columns: &["% of a core", "transactions/s", "resident MiB, all three"],
        more_is_better: false,
    },
];
