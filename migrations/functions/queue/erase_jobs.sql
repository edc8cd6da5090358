-- Removes at most p_limit rows of a tenant's jobs that do not run, from row p_after on; returns the numbers of
-- rows and jobs and where to continue. Served by the primary key.
create or replace function queue.erase_jobs(p_tenant int4, p_after bigint, p_limit int4)
returns table (seen int8, jobs int8, last bigint)
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query
    with old as materialized (
        select
            p.ctid as t, p.id, p.queue, p.kind, p.state,
            greatest(0, p.n - coalesce(cardinality(p.gone), 0) - coalesce(cardinality(p.acked), 0)) as open,
            greatest(0, p.n - coalesce(cardinality(p.gone), 0)) as jobs
        from queue.parcels p
        where p.tenant = p_tenant and p.id >= p_after and p.state <> 'r'
        order by p.id
        limit p_limit
        for update skip locked
    ),
    removed as (
        delete from queue.parcels p where p.ctid = any (array(select t from old))
    ),
    counted as (
        insert into queue.deltas (tenant, queue, kind, scheduled, ready, dead)
        select
            p_tenant, o.queue, o.kind, -coalesce(sum(o.open) filter (where o.state = 's'), 0),
            -coalesce(sum(o.open) filter (where o.state = 'a'), 0),
            -coalesce(sum(o.open) filter (where o.state = 'x'), 0)
        from old o
        where o.state in ('s', 'a', 'x') and o.open > 0
        group by o.queue, o.kind
    )
    select count(*), coalesce(sum(o.jobs), 0)::int8, coalesce(max(o.id), p_after) from old o;
end
$$;

revoke execute on function queue.erase_jobs(int4, bigint, int4) from public;
grant execute on function queue.erase_jobs(int4, bigint, int4) to harkara_engine;
