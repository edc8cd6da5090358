-- Leases locked rows. Waiting jobs without an attempt that are single in their rows are merged if they share
-- lane, kind, priority and attempts and lie within 1024 parcel ids of each other, so that their ids can be found
-- again. The merged row takes the place of its first member.
create or replace function queue.lease_rows(
    p_rows tid[], p_limiters bigint[], p_lease bigint, p_token bigint, p_probe boolean,
    p_at timestamptz
) returns setof queue.parcels
language plpgsql volatile
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
begin
    return query
    -- The condition for merging occurs twice, here and negated below: computed once for both, it made claims of
    -- whole parcels slower.
    with taken as (
        delete from queue.parcels p
        where p.ctid = any (p_rows) and p.n = 1 and p.part = 0 and p.attempt = 0
            and p.deferrals = 0 and p.error_code is null and p.expires_at is null
            and not p.strict and not p.lost and not p_probe and pg_column_size(p.body) <= 1024 and octet_length(p.body[1]) <= 1024
        returning p.tenant, p.id, p.lo, p.lane, p.run_at, p.created_at, p.queue, p.kind,
            p.priority, p.max_attempts, p.keyed, p.body[1] as body
    ),
    -- The arrays below are built in this order.
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
            attempt, max_attempts, lo, n, state, keyed, ids, created, due, limiters, body
        )
        select
            min(tenant), min(id), lane, min(run_at), min(created_at), p_at, p_lease, p_token,
            min(queue), kind, priority, 1, max_attempts,
            case when count(*) = 1 then min(lo) else 0 end, count(*), 'r', keyed,
            case when count(*) > 1 then array_agg(id * 1024 + lo) end,
            case when min(created_at) < max(created_at) then array_agg(created_at) end,
            case when count(*) > 1 and bool_or(run_at <> created_at) then array_agg(run_at) end,
            p_limiters, array_agg(body)
        from sorted
        group by lane, priority, kind, max_attempts, keyed, id / 1024, bunch
        returning *
    ),
    kept as (
        update queue.parcels p
        set state = 'r', attempt = p.attempt + 1, lease = p_lease, token = p_token,
            limiters = p_limiters, probe = p_probe, started_at = p_at
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

revoke execute on function queue.lease_rows(
    tid[], bigint[], bigint, bigint, boolean, timestamptz
) from public;
grant execute on function queue.lease_rows(
    tid[], bigint[], bigint, bigint, boolean, timestamptz
) to harkara_engine;
