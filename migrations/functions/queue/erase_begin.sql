-- Stops a tenant for good: from now on none of its jobs is claimed, and no application's login can enqueue for
-- it. To be called in two transactions: the second knows that every later transaction sees the first. Returns
-- the tenant's number, null for a tenant that does not exist.
create or replace function queue.erase_begin(p_tenant uuid) returns int4
language plpgsql volatile as $$
declare
    edge xid8 := pg_snapshot_xmax(pg_current_snapshot());
    own int4;
begin
    delete from queue.clients c where c.tenant_id = p_tenant;
    update queue.tenants t
    set paused = true, paused_at = coalesce(t.paused_at, now()), limiter = null,
        erasing = case
            when t.erasing is null then '0'::xid8
            -- A database restored on another server restarts with small transaction ids.
            when t.erasing = '0'::xid8 or t.erasing > edge then edge
            else t.erasing
        end
    where t.id = p_tenant
    returning t.number into own;
    return own;
end
$$;

revoke execute on function queue.erase_begin(uuid) from public;
grant execute on function queue.erase_begin(uuid) to harkara_engine;
