-- How many jobs of a tenant wait: scheduled and ready, in this snapshot. The rows are read with the rights of
-- the owner, because row-level security would keep the comparison of transactions out of the index. Served by
-- the primary key of tallies, by deltas_new.
create or replace function queue.count_waiting(p_tenant int4) returns int8
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
begin
    return (
        with fold as materialized (
            select pg_snapshot_xmax(f.last_snapshot) as xmax, array(select pg_snapshot_xip(f.last_snapshot)) as xip
            from queue.rollup_state f where f.one
        ),
        -- Separate, so that each is an index condition.
        new as (
            select d.scheduled + d.ready as jobs from queue.deltas d
            where d.xid >= (select xmax from fold) and d.tenant = p_tenant
            union all
            select d.scheduled + d.ready from queue.deltas d
            where d.xid = any (coalesce((select xip from fold), '{}')) and d.tenant = p_tenant
        )
        select coalesce((select sum(t.scheduled + t.ready) from queue.tallies t
                where t.tenant = p_tenant), 0)
            + coalesce((select sum(n.jobs) from new n), 0)
    )::int8;
end
$$;

revoke execute on function queue.count_waiting(int4) from public;
grant execute on function queue.count_waiting(int4) to harkara_app, harkara_engine;
