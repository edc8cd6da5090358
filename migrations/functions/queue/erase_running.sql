-- Requests the cancellation of all running jobs of a tenant, and returns their number. Served by
-- parcels_running: there are no more running rows than workers have slots.
create or replace function queue.erase_running(p_tenant int4, p_notify boolean) returns int8
language plpgsql volatile
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
declare
    running_jobs bigint[];
    running int8;
begin
    with held as materialized (
        select p.ctid as t
        from queue.parcels p
        where p.state = 'r' and p.tenant = p_tenant and exists (
            select from generate_series(1, p.n) m
            where m <> all (coalesce(p.gone, '{}')) and m <> all (coalesce(p.acked, '{}'))
              and m <> all (coalesce(p.cancelling, '{}'))
        )
        for update skip locked
    ),
    cancelled as (
        update queue.parcels p
        set cancelling = nullif(array(
            select m::int2 from generate_series(1, p.n) m
            where m <> all (coalesce(p.gone, '{}')) and m <> all (coalesce(p.acked, '{}'))
        ), '{}')
        where p.ctid = any (array(select t from held))
        returning p.id, p.lo, p.ids, p.cancelling
    )
    select array_agg(queue.job_id(c.id, c.lo, c.ids, m)) into running_jobs
    from cancelled c cross join unnest(c.cancelling) m;
    if p_notify and running_jobs is not null then
        perform pg_notify('harkara', 'c:' || t) from unnest(running_jobs) t;
    end if;
    select coalesce(sum(
        greatest(0, p.n - coalesce(cardinality(p.gone), 0) - coalesce(cardinality(p.acked), 0))
    ), 0) into running
    from queue.parcels p
    where p.state = 'r' and p.tenant = p_tenant;
    return running;
end
$$;

revoke execute on function queue.erase_running(int4, boolean) from public;
grant execute on function queue.erase_running(int4, boolean) to harkara_engine;
