-- How limits, lanes and queues are steered while jobs run.
-- Locks: SHARE on queue.gates while its index is built. Previous release: see 0005.
--
-- Functions, because a limit on running jobs begins with those that run already, and they must be
-- counted by a snapshot that is younger than the lock on the gate. Order of locks as in 0006: lanes,
-- gates. Parcels come last here, and are never waited for: who holds one may be waiting for the gate.

-- A tenant's limits, without the keys that jobs name and nobody has limited.
create index gates_set on queue.gates (tenant, key)
    where key is not null and (max_running is not null or rate_count is not null);

-- The gate of a queue, made if there is none and p_make says so, and whether it was. Every gate is one
-- more lock of every claim, so none is made for nothing. No row for a queue that is not there.
create function queue.gate_of_queue(p_queue text, p_make boolean)
returns table (number int4, gate bigint, made boolean)
language plpgsql volatile as $$
#variable_conflict use_column
begin
    made := false;
    select q.id, q.gate into number, gate from queue.queues q where q.name = p_queue;
    if number is null then
        return;
    end if;
    if gate is null and p_make then
        select q.gate into gate from queue.queues q where q.id = gate_of_queue.number for no key update;
    end if;
    if gate is null and p_make then
        insert into queue.gates default values returning id into gate;
        update queue.queues q set gate = gate_of_queue.gate where q.id = gate_of_queue.number;
        made := true;
    end if;
    return next;
end
$$;

-- The same for a tenant.
create function queue.gate_of_tenant(p_tenant int4, p_make boolean) returns table (gate bigint, made boolean)
language plpgsql volatile as $$
#variable_conflict use_column
begin
    made := false;
    select t.gate into gate from queue.tenants t where t.number = p_tenant;
    if gate is null and p_make then
        select t.gate into gate from queue.tenants t where t.number = p_tenant for no key update;
    end if;
    if gate is null and p_make then
        insert into queue.gates (tenant) values (p_tenant) returning id into gate;
        update queue.tenants t set gate = gate_of_tenant.gate where t.number = p_tenant;
        made := true;
    end if;
    return next;
end
$$;

-- The same for a lane that is there. Jobs of one key that name other limits stand in lanes of their own:
-- these share the gate.
create function queue.gate_of_lane(
    p_queue int4, p_tenant int4, p_key text, p_strict boolean, p_make boolean
) returns table (gate bigint, made boolean)
language plpgsql volatile as $$
#variable_conflict use_column
begin
    perform from queue.lanes l
    where l.queue = p_queue and l.tenant = p_tenant and l.key = p_key and l.strict = p_strict
    order by l.id
    for update;
    select min(l.gate), bool_or(l.gate is null) and p_make into gate, made from queue.lanes l
    where l.queue = p_queue and l.tenant = p_tenant and l.key = p_key and l.strict = p_strict;
    if made then
        if gate is null then
            insert into queue.gates (tenant) values (p_tenant) returning id into gate;
        end if;
        update queue.lanes l set gate = gate_of_lane.gate
        where l.queue = p_queue and l.tenant = p_tenant and l.key = p_key and l.strict = p_strict
          and l.gate is null;
    end if;
    return next;
end
$$;

-- Waits until every transaction has ended that is under way in this database, for a second at most.
-- A claim that began before a gate was put up does not know it: what it takes is counted when it ends.
create function queue.let_claims_end() returns void
language plpgsql volatile as $$
declare
    others text[];
begin
    select array_agg(l.virtualtransaction) into others
    from pg_locks l
    where l.locktype = 'virtualxid' and l.pid <> pg_backend_pid() and l.pid in (
        select a.pid from pg_stat_activity a where a.datname = current_database()
    );
    for turn in 1 .. 200 loop
        exit when not exists (
            select from pg_locks l
            where l.locktype = 'virtualxid' and l.virtualtransaction = any (others)
        );
        perform pg_sleep(0.005);
    end loop;
end
$$;

-- Counts the running jobs that pass a gate and hold no place in it yet, and answers how many rows were
-- in other hands and are to be looked at again. Served by parcels_running and the primary keys of
-- lanes, queues and tenants; the plan is pinned to them, since there may be far more lanes than running
-- rows, and claims wait for the gate all the while.
create function queue.count_running(p_gate bigint) returns int4
language plpgsql volatile
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan as $$
declare
    passed_over int4;
begin
    perform from queue.gates g where g.id = p_gate and g.max_running is not null for update;
    if not found then
        return 0;
    end if;
    with uncounted as (
        select p.ctid as t
        from queue.parcels p
        where p.state = 'r' and p_gate <> all (coalesce(p.gates, '{}')) and exists (
            select
            from queue.lanes l, queue.queues q, queue.tenants t
            where l.id = p.lane and q.id = p.queue and t.number = p.tenant
              and p_gate = any (array[q.gate, t.gate, l.gate] || l.named)
        )
        for update of p skip locked
    ),
    counted as (
        update queue.parcels p set gates = array_append(p.gates, p_gate)
        where p.ctid = any (array(select t from uncounted))
        returning p.n - coalesce(cardinality(p.gone), 0) - coalesce(cardinality(p.acked), 0) as jobs
    )
    update queue.gates g
    set running = g.running + (select coalesce(sum(jobs), 0) from counted)::int4
    where g.id = p_gate;
    select count(*) into passed_over
    from queue.parcels p
    where p.state = 'r' and p_gate <> all (coalesce(p.gates, '{}')) and exists (
        select
        from queue.lanes l, queue.queues q, queue.tenants t
        where l.id = p.lane and q.id = p.queue and t.number = p.tenant
          and p_gate = any (array[q.gate, t.gate, l.gate] || l.named)
    );
    return passed_over;
end
$$;

-- Changes what a gate lets through, by the members of p_change: `count` starts every `period` (in
-- microseconds), `burst` of them at once, and `max_running`. A member that is not there stays, one
-- that is null is taken away; with the count goes the whole rate, and a burst that is taken away or
-- was never given is a tenth of the count, at least 1.
--
-- Answers the member that makes no sense, having changed nothing: `period` or `burst` where there is
-- no rate, or a rate without a period; and how many rows count_running passed over.
create function queue.set_limit(p_gate bigint, p_change jsonb)
returns table (fault text, passed_over int4)
language plpgsql volatile as $$
declare
    g queue.gates;
    starts int4;
    period interval;
    burst int4;
    most int4;
begin
    passed_over := 0;
    select * into strict g from queue.gates where id = p_gate for update;
    starts := case when p_change ? 'count' then (p_change ->> 'count')::int4 else g.rate_count end;
    most := case
        when p_change ? 'max_running' then (p_change ->> 'max_running')::int4 else g.max_running
    end;
    if starts is null then
        fault := case
            when p_change ->> 'period' is not null then 'period'
            when p_change ->> 'burst' is not null then 'burst'
        end;
    else
        period := case
            when p_change ->> 'period' is null then g.rate_period
            else (p_change ->> 'period')::int8 * interval '1 microsecond'
        end;
        if period is null then
            fault := 'period';
        end if;
        burst := case
            when p_change ->> 'burst' is not null then (p_change ->> 'burst')::int4
            when not p_change ? 'burst' and g.rate_burst <> greatest(1, g.rate_count / 10)
                then g.rate_burst
            else greatest(1, starts / 10)
        end;
    end if;
    if fault is not null then
        return next;
        return;
    end if;
    update queue.gates
    set max_running = most, rate_count = starts, rate_period = period, rate_burst = burst
    where id = p_gate;
    -- What was started still counts, but for no more than a whole burst of the new rate; a rate that
    -- is only saved again grants nothing.
    if (starts, period, burst) is distinct from (g.rate_count, g.rate_period, g.rate_burst) then
        update queue.gates
        set rate_tat = least(rate_tat, clock_timestamp() + rate_every * rate_burst)
        where id = p_gate and rate_every is not null;
    end if;
    if most is not null and g.max_running is null then
        passed_over := queue.count_running(p_gate);
    end if;
    return next;
end
$$;

revoke execute on function
    queue.gate_of_queue(text, boolean), queue.gate_of_tenant(int4, boolean),
    queue.gate_of_lane(int4, int4, text, boolean, boolean),
    queue.let_claims_end(), queue.count_running(bigint), queue.set_limit(bigint, jsonb)
    from public;
grant execute on function
    queue.gate_of_queue(text, boolean), queue.gate_of_tenant(int4, boolean),
    queue.gate_of_lane(int4, int4, text, boolean, boolean),
    queue.let_claims_end(), queue.count_running(bigint), queue.set_limit(bigint, jsonb)
    to harkara_engine;
