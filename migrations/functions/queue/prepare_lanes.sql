-- Creates what a tenant's usual jobs need, so that no application's transaction has to: a lane for each kind.
create or replace function queue.prepare_lanes(p_tenant uuid) returns void
language plpgsql volatile as $$
declare
    number int4;
begin
    insert into queue.tenants (id)
    select p_tenant where not exists (select from queue.tenants t where t.id = p_tenant)
    on conflict do nothing;
    select t.number into strict number from queue.tenants t where t.id = p_tenant;
    perform queue.intern_lane(q.id, number, null, null, null)
    from queue.queues q
    where q.name in (select c.queue from queue.catalogue c where not c.platform_only)
    order by q.id;
end
$$;

revoke execute on function queue.prepare_lanes(uuid) from public;
grant execute on function queue.prepare_lanes(uuid) to harkara_engine;
