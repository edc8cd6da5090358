-- Parcels of many members, gates (limits) and lanes at full strength.
-- Locks: ACCESS EXCLUSIVE on queue.parcels and queue.lanes while their columns and indexes change.
-- Previous release: must be stopped. It would run the first member of a parcel and call all of them
-- done. There has been no release outside this repository before this one.

-- A parcel's place in the table is (tenant, id, part). `part` is 0 for the parcel as it was enqueued
-- (or as the claim merged it), first place + 1 for a piece that was cut off, -(place + 1) for a
-- member that left by itself. So every job id, which is id * 1024 + place, is found where its parcel
-- was, and one index serves both that and the listing of a tenant's jobs.
alter table queue.parcels
    add column part int2 not null default 0,
    -- Strictly one after another: see queue.lanes.strict. Such a parcel has one member.
    add column strict boolean not null default false,
    -- Its worker died under it: taken up again one at a time, so that a poisonous member is alone.
    add column lost boolean not null default false,
    -- Of merged rows only: when each member was enqueued and due.
    add column created timestamptz[],
    add column due timestamptz[],
    -- Members (1 .. n, as in `body`) that have finished well before the others, and when.
    add column acked_at timestamptz[],
    -- Members that are no longer here: they failed, were put off, cancelled or lost, and have rows of
    -- their own.
    add column gone int2[],
    -- Members whose run somebody cancelled. State r only.
    add column cancelling int2[],
    -- Gates in which the running members hold places.
    add column gates bigint[],
    add column probe boolean not null default false;
drop index queue.parcels_cancelling;
drop index queue.parcels_listing;
drop index queue.parcels_ready;
alter table queue.parcels drop constraint parcels_pkey;
alter table queue.parcels add primary key (tenant, id, part);
update queue.parcels set cancelling = array[1] where cancel;
alter table queue.parcels drop column cancel;
create index parcels_ready on queue.parcels (queue, lane, priority, run_at, id)
    where state = 'a' and not lost;
create index parcels_lost on queue.parcels (queue, run_at) where state = 'a' and lost;
create index parcels_cancelling on queue.parcels (lease)
    where state = 'r' and cancelling is not null;
-- Which lanes still have jobs to come, those that may be retried by hand among them.
create index parcels_coming on queue.parcels (lane) where state in ('s', 'x', 'c');

-- The id of member p_member (1 .. n) of the row that holds these. One expression, so that it becomes part
-- of the statement that asks: no call is made.
create function queue.job_of(p_id bigint, p_lo int2, p_ids bigint[], p_member int4) returns bigint
language sql immutable as $$
    select coalesce(p_ids[p_member], p_id * 1024 + p_lo + p_member - 1)
$$;

-- A gate: what a limit is measured at. A lane passes the gates of its queue, its tenant, the limits
-- its jobs name and its own; all must let a job through.
create table queue.gates (
    id bigint generated always as identity primary key,
    -- Null for the gate of a queue.
    tenant int4 references queue.tenants,
    -- The name of a tenant's limit; null for the gate of a queue, of a lane, or of the tenant itself.
    key text check (length(key) between 1 and 256),
    max_running int4 check (max_running > 0),
    -- Places held now by members of parcels that name this gate.
    running int4 not null default 0 check (running >= 0),
    -- GCRA: `rate_count` starts every `rate_period`, `rate_burst` of them at once; `rate_tat` is the
    -- theoretical arrival time.
    rate_count int4 check (rate_count > 0),
    rate_period interval check (rate_period > '0'),
    rate_burst int4 check (rate_burst > 0),
    -- Time of one start, rounded up to the microsecond: never a start too many.
    rate_every interval generated always as (
        make_interval(secs => ceil(
            extract(epoch from rate_period) * 1000000 / rate_count
        )::float8 / 1000000)
    ) stored,
    rate_tat timestamptz not null default '-infinity',
    -- When a job last named it, or about then.
    used_at timestamptz not null default now(),
    unique (tenant, key),
    check ((rate_count is null) = (rate_period is null)
        and (rate_count is null) = (rate_burst is null))
) with (fillfactor = 50);

alter table queue.tenants
    add column gate bigint references queue.gates,
    add column weight int2 not null default 1 check (weight between 1 and 1000),
    add column paused boolean not null default false;

alter table queue.queues
    drop column max_running, drop column rate_every, drop column rate_burst, drop column rate_tat,
    add column gate bigint references queue.gates;

alter table queue.lanes
    drop constraint lanes_queue_tenant_key_key,
    drop column max_running, drop column running, drop column rate_every, drop column rate_burst,
    drop column rate_tat, drop column breaker,
    -- One job after another, in the order (priority, run_at, id); one that failed stays the head.
    add column strict boolean not null default false,
    -- Of a strict lane: the parcel whose job has begun and not finished.
    add column head bigint,
    -- The limits its jobs name: `key`, a unit separator and the cost, one a line; and as gates.
    add column limits text not null default '',
    add column named bigint[] not null default '{}',
    add column costs int4[] not null default '{}',
    add column gate bigint references queue.gates,
    -- Breaker: c closed, o open, h half open, with one probe under way. Opens after `breaker_after`
    -- failures in a row, for `breaker_rest`. No breaker without `breaker_after`.
    add column breaker "char" not null default 'c' check (breaker in ('c', 'o', 'h')),
    add column breaker_after int4 check (breaker_after > 0),
    add column breaker_rest interval check (breaker_rest > '0'),
    add column failures int4 not null default 0,
    add unique (queue, tenant, key, strict, limits),
    add check (cardinality(named) = cardinality(costs)),
    add check (cardinality(named) <= 3),
    add check ((breaker_after is null) = (breaker_rest is null));

-- What each tenant was served in a queue, in jobs divided by weight: the memory of fairness. Workers
-- add to it about once a second. In the place of tenant 0 stands what the least served of those with
-- work stood at: whoever was idle begins there.
create table queue.shares (
    queue int4 not null,
    tenant int4 not null,
    served float8 not null default 0,
    used_at timestamptz not null default now(),
    primary key (queue, tenant)
) with (fillfactor = 50);

do $$
declare
    target text;
begin
    foreach target in array array['gates', 'shares'] loop
        execute format('alter table queue.%I enable row level security', target);
        execute format('alter table queue.%I force row level security', target);
        execute format(
            'create policy tenant_rows on queue.%I to harkara_app
             using (tenant = (select number from queue.tenants where id = app.current_tenant()))
             with check (false)',
            target
        );
        execute format(
            'create policy engine_rows on queue.%I to harkara_engine using (true) with check (true)',
            target
        );
    end loop;
end
$$;
revoke execute on function queue.job_of(bigint, int2, bigint[], int4) from public;
grant execute on function queue.job_of(bigint, int2, bigint[], int4) to harkara_app, harkara_engine;
grant select, insert, update, delete on queue.gates, queue.shares to harkara_engine;
grant select on queue.gates to harkara_app;
-- A tenant's transaction cancels single members and clears a cancelled head out of its lane.
grant update (gone, cancelling, lost, probe, gates) on queue.parcels to harkara_app;
grant update (head) on queue.lanes to harkara_app;
