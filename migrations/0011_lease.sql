-- What a claim does to rows, anew: queue.cut and queue.lease, which now know of bytes and expiry and count
-- what they start; and `queue.expire`.
-- Locks: none that matter. Previous release: must be stopped, since it would not count.

-- What bodies weigh in queue.parcels.bytes: null up to 1024 bytes.
create function queue.weight(p_body bytea[]) returns int4
language sql immutable as $$
    select case when sum(octet_length(b)) > 1024 then sum(octet_length(b))::int4 end
    from unnest(p_body) b
$$;

-- Keeps the first members of a waiting parcel in its row, as many as make `jobs` jobs, and puts the rest
-- into a row behind it. Answers where the kept row now stands.
create or replace function queue.cut(p_row tid, p_jobs int4) returns tid
language plpgsql volatile
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
    keep int4;
    kept tid;
begin
    select i into strict keep
    from (
        select i, row_number() over (order by i) as nth
        from queue.parcels p cross join lateral generate_series(1, p.n) i
        where p.ctid = p_row and not (i = any (coalesce(p.gone, '{}')))
    ) members
    where nth = p_jobs;
    insert into queue.parcels (
        tenant, id, part, lane, run_at, created_at, queue, kind, priority, attempt, max_attempts,
        deferrals, lo, n, state, keyed, gone, bytes, body
    )
    select
        tenant, id, lo + keep + 1, lane, run_at, created_at, queue, kind, priority, attempt,
        max_attempts, deferrals, lo + keep, n - keep, 'a', keyed,
        nullif(array(select g - keep from unnest(gone) g where g > keep), '{}'),
        queue.weight(body[keep + 1:]), body[keep + 1:]
    from queue.parcels where ctid = p_row;
    update queue.parcels
    set n = keep, body = body[:keep], bytes = queue.weight(body[:keep]),
        gone = nullif(array(select g from unnest(gone) g where g <= keep), '{}')
    where ctid = p_row
    returning ctid into kept;
    return kept;
end
$$;

-- Leases locked rows. Fresh jobs that wait alone are merged, as far as they share lane, kind, priority
-- and attempts and lie within 1024 parcel ids of each other, so that their ids are found again. The
-- merged row stands where its first member stood.
create or replace function queue.lease(
    p_rows tid[], p_gates bigint[], p_lease bigint, p_token bigint, p_probe boolean,
    p_at timestamptz
) returns setof queue.parcels
language plpgsql volatile
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
begin
    return query
    -- What may be merged is said twice, here and negated below: found out before, once for both, it made
    -- claims of whole parcels slower.
    with taken as (
        delete from queue.parcels p
        where p.ctid = any (p_rows) and p.n = 1 and p.part = 0 and p.attempt = 0
            and p.deferrals = 0 and p.error_code is null and p.expires_at is null
            and not p.strict and not p.lost and not p_probe and pg_column_size(p.body) <= 1024 and octet_length(p.body[1]) <= 1024
        returning p.tenant, p.id, p.lo, p.lane, p.run_at, p.created_at, p.queue, p.kind,
            p.priority, p.max_attempts, p.keyed, p.body[1] as body
    ),
    -- The arrays below are filled in this order.
    sorted as (
        select *, (row_number() over alike - 1) / 500 as bunch
        from taken
        window alike as (
            partition by lane, priority, kind, max_attempts, keyed, id / 1024
            order by run_at, id
        )
    ),
    merged as (
        insert into queue.parcels (
            tenant, id, lane, run_at, created_at, started_at, lease, token, queue, kind, priority,
            attempt, max_attempts, lo, n, state, keyed, ids, created, due, gates, body
        )
        select
            min(tenant), min(id), lane, min(run_at), min(created_at), p_at, p_lease, p_token,
            min(queue), kind, priority, 1, max_attempts,
            case when count(*) = 1 then min(lo) else 0 end, count(*), 'r', keyed,
            case when count(*) > 1 then array_agg(id * 1024 + lo) end,
            case when min(created_at) < max(created_at) then array_agg(created_at) end,
            case when count(*) > 1 and bool_or(run_at <> created_at) then array_agg(run_at) end,
            p_gates, array_agg(body)
        from sorted
        group by lane, priority, kind, max_attempts, keyed, id / 1024, bunch
        returning *
    ),
    kept as (
        update queue.parcels p
        set state = 'r', attempt = p.attempt + 1, lease = p_lease, token = p_token,
            gates = p_gates, probe = p_probe, started_at = p_at
        where p.ctid = any (p_rows) and not (p.n = 1 and p.part = 0 and p.attempt = 0
            and p.deferrals = 0 and p.error_code is null and p.expires_at is null
            and not p.strict and not p.lost and not p_probe and pg_column_size(p.body) <= 1024 and octet_length(p.body[1]) <= 1024)
        returning p.*
    ),
    counted as (
        insert into queue.deltas (tenant, queue, kind, ready, running, started)
        select l.tenant, l.queue, l.kind, -sum(l.jobs), sum(l.jobs), sum(l.jobs)
        from (
            select k.tenant, k.queue, k.kind, k.n - coalesce(cardinality(k.gone), 0) as jobs
            from kept k
            union all
            select m.tenant, m.queue, m.kind, m.n from merged m
        ) l
        group by l.tenant, l.queue, l.kind
    )
    select * from kept union all select * from merged;
end
$$;

-- Cancels jobs that were to have started by now and have not, at most p_most of them, and answers how
-- many. Served by parcels_expiring.
create function queue.expire(p_most int4) returns int4
language plpgsql volatile
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
    heads bigint[];
    head_lanes bigint[];
    keyed bigint[];
    expired int4;
begin
    with old as materialized (
        select p.ctid as t, p.state as stood
        from queue.parcels p
        where p.state in ('s', 'a') and p.expires_at is not null and p.started_at is null
            and p.expires_at <= now()
        order by p.expires_at
        limit p_most
        for update skip locked
    ),
    ended as (
        update queue.parcels p
        set state = 'c', finished_at = now(), error_code = 'expired',
            error_message = 'the job had not started when its time was over'
        from old o
        where p.ctid = o.t
        returning p.id, p.lo, p.tenant, p.queue, p.kind, p.lane, p.strict, p.keyed, o.stood
    ),
    counted as (
        insert into queue.deltas (tenant, queue, kind, scheduled, ready, cancelled)
        select
            e.tenant, e.queue, e.kind, -count(*) filter (where e.stood = 's'),
            -count(*) filter (where e.stood = 'a'), count(*)
        from ended e
        group by e.tenant, e.queue, e.kind
    )
    select
        count(*), array_agg(id) filter (where strict), array_agg(lane) filter (where strict),
        array_agg(id * 1024 + lo) filter (where ended.keyed)
    into expired, heads, head_lanes, keyed
    from ended;
    perform queue.release(null, null, heads, head_lanes, keyed);
    return expired;
end
$$;

revoke execute on function queue.weight(bytea[]), queue.expire(int4) from public;
grant execute on function queue.weight(bytea[]) to harkara_app, harkara_engine;
grant execute on function queue.expire(int4) to harkara_engine;
