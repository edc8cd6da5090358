//! Plans of the statements inside the engine's SQL functions: each finds its rows by an index and reads
//! no more of them than it needs.

#![expect(
    clippy::disallowed_types,
    reason = "statements are assembled here to be explained"
)]

use std::fmt;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::plans::{LARGE, well_used};
use crate::support::Fixture;

/// The rows of a large table that one plan node may read in these tests: far fewer than the table has.
const MAX_ROWS_READ: f64 = 1000.0;

/// Marks the statements of the test itself.
const TEST_MARK: &str = "/* test */";

/// Captures the notices that the server sends to connections of this thread.
#[derive(Clone, Default)]
struct Notices(Arc<Mutex<Vec<String>>>);

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.0);
        }
    }
}

impl Subscriber for Notices {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::postgres::notice"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        self.0.lock().unwrap().push(message.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A statement inside a function, with its executed plan.
struct Explained {
    text: String,
    plan: Value,
}

impl Notices {
    fn explained(&self) -> Vec<Explained> {
        let notices = self.0.lock().unwrap();
        notices
            .iter()
            .filter_map(|notice| notice.split_once("plan:").map(|(_, json)| json))
            .map(|json| {
                let plan: Value = serde_json::from_str(json.trim()).unwrap();
                Explained {
                    text: plan["Query Text"].as_str().unwrap().to_owned(),
                    plan: plan["Plan"].clone(),
                }
            })
            .filter(|statement| !statement.text.contains(TEST_MARK))
            .collect()
    }
}

/// Every plan node that scans a large table, or reads much of it through an index.
fn find_excessive_reads(node: &Value, found: &mut Vec<String>) {
    if let Value::Array(items) = node {
        items
            .iter()
            .for_each(|item| find_excessive_reads(item, found));
    }
    let Value::Object(members) = node else { return };
    let text = |name: &str| {
        members
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let number = |name: &str| {
        members
            .get(name)
            .and_then(Value::as_f64)
            .unwrap_or_default()
    };
    let (kind, table) = (text("Node Type"), text("Relation Name"));
    let large = LARGE.contains(&table) || table == "lanes" || table.starts_with("attempts_");
    if kind.ends_with("Scan") && large {
        let removed = number("Rows Removed by Filter") + number("Rows Removed by Index Recheck");
        let read = (number("Actual Rows") + removed) * number("Actual Loops");
        if kind == "Seq Scan" || read > MAX_ROWS_READ {
            found.push(format!("{kind} of {table}: {read} rows"));
        }
    }
    members
        .values()
        .for_each(|value| find_excessive_reads(value, found));
}

/// Lanes with limits, in strict order, with rows too large for a claim.
const SETUP: &str = "/* test */ do $$
declare
    gated bigint;
begin
    insert into queue.limiters (tenant, max_running, rate_count, rate_period, rate_burst)
    values (1, 1000, 1000, '1 second', 1000) returning id into gated;
    insert into queue.lanes (queue, tenant, key, limiter, breaker_after, breaker_rest)
    values (1, 1, 'limited', gated, 5, '1 second');
    insert into queue.lanes (queue, tenant, key, strict) values (1, 1, 'ordered', true);
    insert into queue.lanes (queue, tenant, key, strict) values (1, 1, 'begun', true);
    insert into queue.lanes (queue, tenant, key, strict) values (1, 1, 'lost', true);
    update queue.parcels set n = 300, body = array_fill(body[1], array[300]), priority = 0
    where id in (
        select min(id) from queue.parcels where state = 'a' and not lost and not keyed and lane = 2
    );
    update queue.parcels p set lane = l.id, n = 300, body = array_fill(body[1], array[300])
    from queue.lanes l
    where l.key = 'limited' and p.id in (
        select id from queue.parcels
        where state = 'a' and not lost and not keyed and lane = 2 and n = 1 order by id limit 20
    );
    update queue.parcels p set lane = l.id, strict = true
    from queue.lanes l
    where l.key = case p.id % 4 when 0 then 'ordered' else 'begun' end and p.id in (
        select id from queue.parcels
        where state = 'a' and not lost and n = 1 and tenant = 1 and id % 2 = 0 order by id limit 100
    );
    update queue.parcels p set lane = l.id, strict = true
    from queue.lanes l
    where l.key = 'lost'
        and p.id = (select min(id) from queue.parcels where state = 'a' and lost and tenant = 1);
    update queue.lanes l set head = (select min(id) from queue.parcels where lane = l.id)
    where l.key = 'begun';
    insert into queue.lanes (queue, tenant, key) select 2, 1, g::text from generate_series(1, 3000) g;
    insert into queue.leases (worker_id, expires_at)
    select id, now() + interval '1 hour' from queue.workers limit 1;
    update queue.parcels set expires_at = now() - interval '1 second', started_at = null
    where id in (
        select id from queue.parcels
        where state = 'a' and not lost and n = 1 and lane = 2 order by id desc limit 100
    );
end $$";

/// Claims whole rows and pieces from lanes of every kind.
const CLAIM: [&str; 5] = [
    "/* test */ select count(*) from (
        select array_agg(id order by id) as lanes, array_agg(60 order by id) as most
        from queue.lanes where queue = 1
    ) l, queue.claim(1, (select max(id) from queue.leases), 77, l.lanes, l.most, l.most, '{}', '{}', 200, 0,
        100000000, true)",
    "/* test */ select count(*)
     from queue.claim(1, (select max(id) from queue.leases), 77, array[2], array[9], array[9],
         array[5::int2], array[now() - interval '1 day'], 9, 0, 100000000, false)",
    "/* test */ select count(*)
     from queue.claim(1, (select max(id) from queue.leases), 77, array[2], array[9], array[9],
         '{}', '{}', 9, 0, 100000000, true)",
    "/* test */ select count(*)
     from queue.claim(1, (select max(id) from queue.leases), 77, array[2], array[9], array[9],
         array[-1::int2], array[null::timestamptz], 9, 0, 100000000, false)",
    "/* test */ select queue.half_open_lanes('{1,2}')",
];

/// Settles the claims with every outcome: success, failure, partial, final and retryable.
const SETTLE: &str = "/* test */ with taken as materialized (
    select row_number() over (order by id, part)::int4 as nth, *
    from queue.parcels where state = 'r' and token = 77
),
f as materialized (
    select *, case when n > 1 and nth % 3 > 0 then 'p' when nth % 2 = 0 then 'w' else 's' end as form
    from (select *, case when n > 1 and nth % 3 = 0 then 2 else nth end as which from taken) t
),
r as materialized (
    select *, case when n > 1 and form = 's' then 'w' else form end as ends from f
),
e as materialized (
    select r.nth, m::int2 as member, coalesce(r.ids[m], r.id * 1024 + r.lo + m - 1) as job,
        m % 2 = 1 as dead
    from r cross join lateral generate_series(1, r.n) m
    where r.ends in ('p', 's')
),
rows as (
    select array_agg(tenant order by nth) as tenants, array_agg(id order by nth) as ids,
        array_agg(part order by nth) as parts, array_agg(token order by nth) as tokens,
        array_agg(ends order by nth) as forms, array_agg(true order by nth) as lasts,
        array_agg(null::jsonb order by nth) as results,
        array_agg((ends <> 'w')::int4 order by nth) as faults,
        array_agg(null::int8 order by nth) as parks
    from r
),
ends as (
    select array_agg(nth order by nth, member) as nths, array_agg(member order by nth, member) as members,
        array_agg(job order by nth, member) as jobs,
        array_agg(case when dead then 'x' else 's' end order by nth, member) as states,
        array_agg(case when dead then null else 1000::int8 end order by nth, member) as waits,
        array_agg(false order by nth, member) as nos,
        array_agg(7::int2 order by nth, member) as sevens,
        array_agg(case when dead then 'dead' else 'retry' end order by nth, member) as outcomes,
        array_agg('code'::text order by nth, member) as texts
    from e
)
select cardinality(queue.settle(
    tenants, ids, parts, tokens, forms, lasts, results, faults, parks,
    '{}', '{}', '{}', nths, members, jobs, states, waits, nos, nos, sevens, outcomes, texts, texts,
    '{1}', '{1}', '{1}', array_fill(1, array[19]), array_fill(2, array[19])
)) from rows, ends";

/// Creates limiters for a lane, a tenant and a queue while jobs that count against them run.
const LIMIT: &str = "/* test */ select sum(l.passed_over) from (
        select limiter from queue.limiter_of_lane(1, 1, 'ordered', true, true)
        union all
        select limiter from queue.limiter_of_tenant(1, true)
        union all
        select limiter from queue.limiter_of_queue('default', true)
    ) g, queue.set_limit(g.limiter, '{\"max_running\": 5, \"count\": 9, \"period\": 1000000}') l";

const EXPIRE: &str = "/* test */ select queue.cancel_expired_jobs(1000)";

const RESCUE: &str = "/* test */ select rescued from queue.rescue_lost_parcels(30)";

/// Job ids of every storage form: rows, members, merged members, and ids without a job.
const FIND: &str = "/* test */ select count(*) from queue.find_jobs(array(
    select id * 1024 + place
    from queue.parcels p, unnest(array[0, 1, 3, 500]) place
    where p.id in (select id from queue.parcels order by id desc limit 20)
))";

/// Reads the changes that are not rolled up, rolls them up, and finds the oldest job.
const COUNT: [&str; 3] = [
    "/* test */ select count(*) from queue.pending_deltas(1)",
    "/* test */ select queue.roll_up_counters(100)",
    "/* test */ select (select count(*) from queue.oldest_ready('{1,2}', 1, 100)),
        (select count(*) from queue.oldest_ready('{1,2}', null, 100))",
];

/// Pages of jobs in every state; each state has more rows than a page may read.
const LIST: &str = "/* test */ select count(l.job)
    from (values (null), ('s'), ('a'), ('r'), ('d'), ('x')) s(state)
    cross join lateral queue.list_jobs(
        (select id from queue.tenants where number = 1), null, 50, s.state, null, null, null, null, null, 200
    ) l";

const CLEAR_EMPTY: &str =
    "/* test */ select queue.clear_empty_parcels(array_agg(id), array_agg(part)) from (
        select id, part from queue.parcels where tenant = 1 order by id limit 20
    ) p";

/// Jobs in every situation: ready, scheduled, running, done, lost; in ordered lanes with and without a head.
const EXPLAIN: &str = "/* test */ select count(queue.explain(job)) from (
        (select id * 1024 + lo as job from queue.parcels
        where tenant = 1 and state = 'a' and not lost and lane = 2 order by run_at limit 20)
        union all
        (select id * 1024 + lo from queue.parcels
        where tenant = 1 and state = 'a' and lost order by run_at limit 5)
        union all
        (select id * 1024 + lo from queue.parcels
        where tenant = 1 and strict and state in ('a', 's') order by run_at limit 20)
        union all
        (select id * 1024 + lo from queue.parcels where tenant = 1 and state = 's' limit 5)
        union all
        (select id * 1024 + lo from queue.parcels where tenant = 1 and state in ('r', 'd') limit 5)
    ) jobs";
/// Bulk changes of whole rows and of single members, in every state.
const CONTROL: [&str; 8] = [
    "/* test */ update queue.parcels set state = 'x', token = null, finished_at = now()
     where tenant = 1 and id in (select id from queue.parcels where state = 's' and tenant = 1
        order by id limit 60)",
    "/* test */ update queue.lanes l set head = p.id from queue.parcels p
     where p.lane = l.id and p.strict and p.id = (
        select max(id) from queue.parcels where strict and tenant = 1 and state = 'a'
     )",
    "/* test */ update queue.unique_keys set expires_at = now() - interval '1 second'
     where job_id in (select id * 1024 from queue.parcels where state = 'x')",
    "/* test */ insert into queue.labels (tenant, name, value, job_id)
     select tenant, 'unique_key', id::text, id * 1024 from queue.parcels where state = 'x'
     on conflict do nothing",
    "/* test */ select count(*) from queue.cancel_jobs(array(
        select id * 1024 + lo + place from queue.parcels p, unnest(array[0, 1]) place
        where tenant = 1 and place < n and ids is null and (id in (
            select id from queue.parcels where state in ('a', 's', 'r') and tenant = 1
            order by id desc limit 100
        ) or id in (select head from queue.lanes))
    ), true)",
    "/* test */ select count(*) from queue.retry_jobs(array(
        select id * 1024 + lo + place from queue.parcels p, unnest(array[0, 1]) place
        where tenant = 1 and place < n and ids is null and id in (select id from queue.parcels where state in ('x', 'c'))
    ), true)",
    "/* test */ select count(*) from queue.move_jobs(array(
        select id * 1024 + lo from queue.parcels p
        where tenant = 1 and id in (
            select id from queue.parcels where state in ('a', 's') and tenant = 1 order by id limit 50
        )
    ), '{s,a}', null, true)",
    "/* test */ select count(*) from queue.delete_jobs(array(
        select id * 1024 + lo + place from queue.parcels p, unnest(array[0, 1]) place
        where tenant = 1 and place < n and ids is null and id in (
            select id from queue.parcels where state = 'd' and tenant = 1 order by id limit 100
        )
    ))",
];

/// Allows the test's login role to enqueue by SQL for a tenant with a quota.
const CLIENT: &str = "/* test */ do $$
begin
    insert into app.tenants (id, slug, name, sla_tier)
    select t.id, 'acme', 'Acme', 'PRO' from queue.tenants t where t.number = 1;
    update queue.tenants set max_waiting = 1000000 where number = 1;
    insert into queue.catalogue (
        kind, queue, max_attempts, timeout_ms, platform_only, shape, rules
    ) values ('test.job', 'default', 3, 1000, false, '{}', 'true');
    insert into queue.clients (role, tenant_id)
    select session_user, t.id from queue.tenants t where t.number = 1;
end $$";

/// Jobs with every combination of options.
const ENQUEUE: &str = "/* test */ select count(*) from queue.enqueue_many((
        select jsonb_agg(jsonb_build_object('kind', 'test.job', 'payload', '{}'::jsonb) || case g % 4
            when 0 then '{\"unique_key\": \"k\"}'
            when 1 then '{\"ordering_key\": \"new\", \"tags\": [\"a\"]}'
            when 2 then '{\"limits\": [{\"key\": \"crm\"}]}'
            else '{}' end::jsonb)
        from generate_series(1, 20) g
    ))";

/// Erases part of a tenant's data.
const ERASE: [&str; 3] = [
    "/* test */ select queue.erase_begin((select id from queue.tenants where number = 2))",
    "/* test */ select queue.erase_running(2, true), (select count(*) from queue.erase_jobs(2, 0, 200))",
    "/* test */ select sum(queue.erase_rows(2, t, 100)), bool_or(queue.erase_end(2))
     from unnest(array['labels', 'progress', 'unique_keys', 'attempts', 'lanes', 'limiters', 'shares',
         'history']) t",
];

/// Runs the functions in a transaction that is rolled back, and returns the statements executed inside
/// them.
async fn statements_inside(fixture: &Fixture, before: &str) -> Vec<Explained> {
    let notices = Notices::default();
    let _heard = tracing::subscriber::set_default(notices.clone());
    let mut superuser = PgConnection::connect(&fixture.database.superuser_url())
        .await
        .unwrap();
    let mut tx = superuser.begin().await.unwrap();
    let run = async |tx: &mut PgConnection, sql: &str| {
        let done = tx.execute(AssertSqlSafe(sql.to_owned())).await;
        done.unwrap_or_else(|error| panic!("{error}: {sql}"));
    };
    run(&mut tx, before).await;
    run(&mut tx, SETUP).await;
    run(&mut tx, CLIENT).await;
    run(
        &mut tx,
        "/* test */ load 'auto_explain'; set auto_explain.log_min_duration = 0;
         set auto_explain.log_nested_statements = on; set auto_explain.log_analyze = on;
         set auto_explain.log_timing = off; set auto_explain.log_format = json;
         set auto_explain.log_level = notice; set role harkara_engine",
    )
    .await;
    for sql in CLAIM
        .into_iter()
        .chain([LIMIT, SETTLE, RESCUE, EXPIRE, FIND])
        .chain(COUNT)
    {
        run(&mut tx, sql).await;
    }
    let tenant = format!(
        "/* test */ set role harkara_app; set app.tenant_id = '{}'",
        fixture.tenant.as_uuid()
    );
    for sql in &CONTROL[..4] {
        run(&mut tx, sql).await;
    }
    for sql in [&*tenant, FIND, LIST, EXPLAIN, CLEAR_EMPTY]
        .into_iter()
        .chain(CONTROL[4..].iter().copied())
        .chain(["/* test */ reset role", ENQUEUE, ENQUEUE])
        .chain(["/* test */ set role harkara_engine"])
        .chain(ERASE)
    {
        run(&mut tx, sql).await;
    }
    tx.rollback().await.unwrap();
    notices.explained()
}

/// A distinctive part of every statement in the functions.
const STATEMENTS: &[(&str, &str)] = &[
    ("split_parcel", "row_number() over (order by i)"),
    ("split_parcel", "lo + keep + 1"),
    ("split_parcel", "set n = keep"),
    ("lease_rows", "with taken as"),
    ("claim", "from queue.leases e"),
    ("claim", "a.strict or a.breaker <> 'c'"),
    ("claim", "g.id = any (g_id) order by g.id for no key update"),
    ("claim", "p.state = 'a' and p.lost"),
    ("next_in_strict_lane", "p.id = p_head"),
    ("next_in_strict_lane", "false, coalesce(p.bytes, 1024)"),
    ("next_in_strict_lane", "true, coalesce(p.bytes, 1024)"),
    ("next_in_strict_lane", "p.ctid = seen"),
    ("claim", "lost_free and p.queue = p_queue"),
    ("claim_unlimited", "p.lane = any (p_unlimited)"),
    ("claim_unlimited", "with asked as"),
    ("longest_waiting_priority", "p.priority = level"),
    ("half_open_lanes", "l.id = any (p_lanes) and l.breaker"),
    ("cancel_expired_jobs", "with old as"),
    (
        "claim",
        "update queue.limiters g\n        set running = case",
    ),
    ("settle", "order by p.tenant, p.id, p.part"),
    ("settle", "whole as ("),
    ("settle", "l.id = any (noted) order by"),
    (
        "settle",
        "set body = '{}', n = 1\n        from unnest(p_tenant",
    ),
    ("record_lane_outcome", "from queue.lanes l"),
    ("record_lane_outcome", "set failures ="),
    ("release_holds", "update queue.lanes l set head = null"),
    ("release_holds", "where l.id = any (p_head_lanes) order by"),
    ("release_holds", "where g.id = any (p_limiters) order by"),
    (
        "release_holds",
        "update queue.limiters g set running = g.running",
    ),
    (
        "release_holds",
        "k.expires_at = 'infinity'\n        order by",
    ),
    ("release_holds", "delete from queue.unique_keys"),
    ("rescue_lost_parcels", "recursive holder"),
    ("rescue_lost_parcels", "p.ctid = any (emptied)"),
    ("pending_deltas", "d.xid = any (late) and"),
    (
        "roll_up_counters",
        "removed as (\n        delete from queue.deltas",
    ),
    ("list_jobs", "with cursor as materialized"),
    ("oldest_ready", "recursive asked"),
    ("find_jobs", "recursive wanted"),
    ("explain", "coalesce(c.created[place.member]"),
    ("explain", "from queue.leases e where e.id = p.lease"),
    ("explain", "w.queues ? q.name"),
    ("explain", "max(w.last_seen_at)"),
    ("explain", "from queue.attempts a"),
    ("explain", "c.id = l.head and c.part = 0"),
    (
        "explain",
        "c.state = 'a' and not c.lost\n            order by",
    ),
    ("explain", "c.priority < p.priority"),
    ("explain", "order by c.run_at\n                limit most"),
    ("explain", "from queue.lanes n"),
    ("clear_empty_parcels", "unnest(p_ids, p_parts)"),
    ("limiter_of_lane", "l.strict = p_strict\n    order by l.id"),
    ("limiter_of_lane", "min(l.limiter)"),
    ("limiter_of_lane", "update queue.lanes l set limiter"),
    ("limiter_of_tenant", "update queue.tenants t set limiter"),
    ("limiter_of_queue", "update queue.queues q set limiter"),
    ("count_running", "with uncounted as"),
    (
        "count_running",
        "from queue.parcels p\n    where p.state = 'r' and p_limiter",
    ),
    ("set_limit", "set max_running = most"),
    ("set_limit", "set rate_tat = least"),
    ("lock_jobs", "locked as materialized"),
    ("group_jobs_by_row", "r.ctid = a.place"),
    ("record_state_changes", "insert into queue.deltas"),
    ("cancel_jobs", "when s.act = 'end' then 'c'"),
    ("cancel_jobs", "l.head = any (heads)"),
    ("cancel_jobs", "with let_on as"),
    ("cancel_jobs", "k.expires_at = 'infinity'\n        order by"),
    (
        "cancel_jobs",
        "k.job_id = any (keyed) and k.expires_at = 'infinity'",
    ),
    ("retry_jobs", "named as materialized"),
    ("retry_jobs", "u.job <> all (taken)"),
    ("retry_jobs", "when s.whole then 'a'"),
    ("move_jobs", "when s.whole then becomes"),
    ("delete_parcels", "with removed as"),
    (
        "delete_jobs",
        "k.job_id = any (keyed) and k.expires_at > now()",
    ),
    ("delete_jobs", "where not last"),
    ("delete_jobs", "delete from queue.labels"),
    ("delete_jobs", "delete from queue.progress"),
    ("delete_jobs", "k.expires_at <= now()"),
    ("intern_lane", "l.limits = identity"),
    ("intern_lane", "g.tenant = p_tenant and g.key = w.key"),
    ("count_waiting", "with fold as materialized"),
    ("enqueue_jobs", "with lines as materialized"),
    ("enqueue_jobs", "returning kind, key, job_id"),
    ("enqueue_jobs", "p.first is not null and p.holder is null\n"),
    ("enqueue_jobs", "labelled as ("),
    ("erase_begin", "erasing = case"),
    ("erase_running", "with held as"),
    (
        "erase_running",
        "from queue.parcels p\n    where p.state = 'r' and p.tenant = p_tenant",
    ),
    ("erase_jobs", "p.id >= p_after"),
    ("erase_rows", "from queue.labels o"),
    ("erase_rows", "from queue.progress o"),
    ("erase_rows", "from queue.unique_keys o"),
    ("erase_rows", "order by a.finished_at"),
    ("erase_rows", "a.finished_at <= edge"),
    ("erase_rows", "select k.id from queue.lanes k"),
    ("erase_rows", "from queue.limiters o"),
    ("erase_rows", "from queue.history o"),
    ("erase_end", "select t.erasing"),
];

#[tokio::test]
async fn statements_inside_functions_read_no_more_than_they_need() {
    let fixture = well_used().await;
    let explained = statements_inside(&fixture, "/* test */ select").await;
    for (function, part) in STATEMENTS {
        assert!(
            explained
                .iter()
                .any(|statement| statement.text.contains(*part)),
            "this statement of queue.{function} was not executed: {part}"
        );
    }
    for Explained { text, plan } in &explained {
        let mut found = Vec::new();
        find_excessive_reads(plan, &mut found);
        assert!(found.is_empty(), "{found:?}\n{text}\n{plan:#}");
    }
}

#[tokio::test]
async fn missing_index_is_detected_for_a_statement_inside_a_function() {
    let fixture = well_used().await;
    for (index, part) in [
        ("parcels_ready", "with asked as"),
        ("parcels_running", "recursive holder"),
    ] {
        let drop = format!("/* test */ drop index queue.{index}");
        let explained = statements_inside(&fixture, &drop).await;
        let mut found = Vec::new();
        for statement in explained.iter().filter(|one| one.text.contains(part)) {
            find_excessive_reads(&statement.plan, &mut found);
        }
        assert!(
            !found.is_empty(),
            "the missing index {index} was not detected"
        );
    }
}
