-- Counts the running jobs that pass a limiter and hold no slot in it yet, and returns how many rows were locked
-- by others and must be read again. Served by parcels_running and the primary keys of lanes, queues and tenants;
-- the plan is pinned to them, since there can be far more lanes than running rows, and claims wait for the
-- limiter meanwhile.
create or replace function queue.count_running(p_limiter bigint) returns int4
language plpgsql volatile
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan as $$
declare
    passed_over int4;
begin
    perform from queue.limiters g where g.id = p_limiter and g.max_running is not null for update;
    if not found then
        return 0;
    end if;
    with uncounted as (
        select p.ctid as t
        from queue.parcels p
        where p.state = 'r' and p_limiter <> all (coalesce(p.limiters, '{}')) and exists (
            select
            from queue.lanes l, queue.queues q, queue.tenants t
            where l.id = p.lane and q.id = p.queue and t.number = p.tenant
              and p_limiter = any (array[q.limiter, t.limiter, l.limiter] || l.named)
        )
        for update of p skip locked
    ),
    counted as (
        update queue.parcels p set limiters = array_append(p.limiters, p_limiter)
        where p.ctid = any (array(select t from uncounted))
        returning p.n - coalesce(cardinality(p.gone), 0) - coalesce(cardinality(p.acked), 0) as jobs
    )
    update queue.limiters g
    set running = g.running + (select coalesce(sum(jobs), 0) from counted)::int4
    where g.id = p_limiter;
    select count(*) into passed_over
    from queue.parcels p
    where p.state = 'r' and p_limiter <> all (coalesce(p.limiters, '{}')) and exists (
        select
        from queue.lanes l, queue.queues q, queue.tenants t
        where l.id = p.lane and q.id = p.queue and t.number = p.tenant
          and p_limiter = any (array[q.limiter, t.limiter, l.limiter] || l.named)
    );
    return passed_over;
end
$$;

revoke execute on function queue.count_running(bigint) from public;
grant execute on function queue.count_running(bigint) to harkara_engine;
