-- Tables and columns of what people see and steer: counters, the past in minutes and hours, progress,
-- quotas, expiry. The functions that use them are in the migrations after this one.
-- Locks: ACCESS EXCLUSIVE on queue.parcels, queue.lanes, queue.queues and queue.tenants for the moment in
-- which their columns are added; SHARE on queue.parcels while indexes are built and jobs are counted.
-- Previous release: must be stopped. What it changes afterwards is not counted (queue.recount mends that).

alter table queue.parcels
    -- A job that has not started by then is cancelled (queue.expire). Such a job has a row to itself.
    add column expires_at timestamptz,
    -- Size of the bodies, where that is more than 1024: what a claim of the row costs in memory.
    add column bytes int4;
create index parcels_expiring on queue.parcels (expires_at)
    where state in ('s', 'a') and expires_at is not null and started_at is null;
-- Jobs that people look for among many that are done.
create index parcels_aside on queue.parcels (tenant, state, id) where state in ('s', 'x', 'c');
grant update (expires_at) on queue.parcels to harkara_app;

alter table queue.queues add column paused_at timestamptz;
alter table queue.tenants
    add column paused_at timestamptz,
    -- Most jobs that may wait, scheduled and ready together; no bound when null.
    add column max_waiting int8 check (max_waiting >= 0);
alter table queue.lanes
    add column paused_at timestamptz,
    -- Since when it is parked.
    add column parked_at timestamptz;
update queue.queues set paused_at = now() where paused;
update queue.tenants set paused_at = now() where paused;
update queue.lanes set paused_at = now() where paused;

-- How many jobs changed state, written in the transaction that changed them: whoever counts adds up
-- these instead of jobs. Appended, so that nobody waits for anybody; queue.fold adds them to
-- queue.tallies and queue.history about once a second and removes them.
-- waits and runs: how many jobs waited and ran for how long, by the 19 classes whose upper bounds in
-- milliseconds are 1, 2, 5, 10, 20, 50, 100, 200, 500, 1 000, 2 000, 5 000, 10 000, 30 000, 60 000,
-- 300 000, 900 000, 3 600 000 and none.
create table queue.deltas (
    -- Who wrote it: a fold takes what its snapshot sees and the one before it did not, so that no
    -- transaction is too long to be counted, and nothing is read twice.
    xid xid8 not null default pg_current_xact_id(),
    minute timestamptz not null default date_trunc('minute', now()),
    tenant int4 not null,
    queue int4 not null,
    kind int4 not null,
    -- Changes of how many there are.
    scheduled int4 not null default 0,
    ready int4 not null default 0,
    running int4 not null default 0,
    dead int4 not null default 0,
    -- How many did so.
    enqueued int4 not null default 0,
    started int4 not null default 0,
    succeeded int4 not null default 0,
    retried int4 not null default 0,
    died int4 not null default 0,
    cancelled int4 not null default 0,
    waits int4[] check (cardinality(waits) = 19),
    runs int4[] check (cardinality(runs) = 19)
);
create index deltas_new on queue.deltas (xid);

-- How many jobs there are, but for what queue.deltas holds.
create table queue.tallies (
    tenant int4 not null,
    queue int4 not null,
    kind int4 not null,
    scheduled int8 not null default 0,
    ready int8 not null default 0,
    running int8 not null default 0,
    dead int8 not null default 0,
    primary key (tenant, queue, kind)
) with (fillfactor = 50);

-- What happened in each minute (span m) and in each hour (span h).
create table queue.history (
    tenant int4 not null,
    span "char" not null check (span in ('m', 'h')),
    at timestamptz not null,
    queue int4 not null,
    kind int4 not null,
    enqueued int8 not null default 0,
    started int8 not null default 0,
    succeeded int8 not null default 0,
    retried int8 not null default 0,
    died int8 not null default 0,
    cancelled int8 not null default 0,
    waits int8[],
    runs int8[],
    primary key (tenant, span, at, queue, kind)
) with (fillfactor = 50);

-- Up to where deltas were folded. One row.
create table queue.folded (
    one boolean primary key default true check (one),
    upto pg_snapshot not null
) with (fillfactor = 10);

-- How far a job has come that tells it while it runs.
create table queue.progress (
    job_id bigint primary key,
    tenant int4 not null,
    progress jsonb not null,
    updated_at timestamptz not null default now()
) with (fillfactor = 50);

insert into queue.tallies (tenant, queue, kind, scheduled, ready, running, dead)
select
    p.tenant, p.queue, p.kind,
    sum(case when p.state = 's' then j.jobs else 0 end),
    sum(case when p.state = 'a' then j.jobs else 0 end),
    sum(case when p.state = 'r' then j.jobs else 0 end),
    sum(case when p.state = 'x' then j.jobs else 0 end)
from queue.parcels p
cross join lateral (
    select greatest(0, p.n - coalesce(cardinality(p.gone), 0) - coalesce(cardinality(p.acked), 0))
        as jobs
) j
group by p.tenant, p.queue, p.kind;
insert into queue.folded (upto) values (pg_current_snapshot());

do $$
declare
    target text;
begin
    foreach target in array array['deltas', 'tallies', 'history', 'progress'] loop
        execute format('alter table queue.%I enable row level security', target);
        execute format('alter table queue.%I force row level security', target);
        execute format(
            'create policy tenant_rows on queue.%I to harkara_app
             using (tenant = (select number from queue.tenants where id = app.current_tenant()))
             with check (tenant = (select number from queue.tenants where id = app.current_tenant()))',
            target
        );
        execute format(
            'create policy engine_rows on queue.%I to harkara_engine using (true) with check (true)',
            target
        );
    end loop;
end
$$;
grant select, insert, update, delete on
    queue.deltas, queue.tallies, queue.history, queue.progress to harkara_engine;
grant select, update on queue.folded to harkara_engine;
grant select on queue.folded, queue.tallies, queue.history to harkara_app;
grant select, insert on queue.deltas to harkara_app;
grant select, insert, update on queue.progress to harkara_app;
