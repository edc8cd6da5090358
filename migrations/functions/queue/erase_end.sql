-- The last step: removes the counters and the tenant's number. Returns false and does nothing while rows are
-- left or can still be added: a transaction is open that began before the tenant was stopped. No rollup runs
-- meanwhile, so that deltas that are not rolled up are removed as well.
create or replace function queue.erase_end(p_tenant int4) returns boolean
language plpgsql volatile
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
declare
    seen pg_snapshot;
    since xid8;
begin
    select t.erasing into since from queue.tenants t where t.number = p_tenant for update;
    if not found then
        return true;
    end if;
    if since is null or since = '0'::xid8 or pg_snapshot_xmin(pg_current_snapshot()) < since then
        return false;
    end if;
    select f.last_snapshot into seen from queue.rollup_state f for update;
    if exists (select from queue.parcels p where p.tenant = p_tenant)
        or exists (select from queue.unique_keys k where k.tenant = p_tenant)
        or exists (select from queue.labels l where l.tenant = p_tenant)
        or exists (select from queue.progress g where g.tenant = p_tenant)
        or exists (select from queue.attempts a where a.tenant = p_tenant)
        or exists (select from queue.history h where h.tenant = p_tenant)
        or exists (select from queue.limiters g where g.tenant = p_tenant)
        or exists (
            select from queue.queues q cross join lateral (
                select from queue.lanes l where l.queue = q.id and l.tenant = p_tenant limit 1
            ) l
        )
    then
        return false;
    end if;
    delete from queue.deltas d
    where d.tenant = p_tenant and d.xid >= pg_snapshot_xmax(seen);
    delete from queue.deltas d
    where d.tenant = p_tenant and d.xid = any (array(select pg_snapshot_xip(seen)));
    delete from queue.tallies t where t.tenant = p_tenant;
    delete from queue.tenants t where t.number = p_tenant;
    return true;
end
$$;

revoke execute on function queue.erase_end(int4) from public;
grant execute on function queue.erase_end(int4) to harkara_engine;
