-- Lets a login role enqueue for a tenant, or for all if it is null. Returns whether it could not before. Not for
-- tenants' transactions: the caller needs the right to grant harkara_client.
create or replace function queue.grant_client(p_role text, p_tenant uuid) returns boolean
language plpgsql volatile as $$
declare
    fresh int8;
begin
    if not exists (select from pg_roles r where r.rolname = p_role) then
        raise exception 'database role % does not exist', quote_ident(p_role) using errcode = 'HK404';
    end if;
    if not pg_has_role(p_role, 'harkara_client', 'member') then
        execute format('grant harkara_client to %I', p_role);
    end if;
    insert into queue.clients (role, tenant_id) values (p_role, p_tenant) on conflict do nothing;
    get diagnostics fresh = row_count;
    perform queue.prepare_lanes(t.id) from app.tenants t where t.id = p_tenant;
    return fresh > 0;
end
$$;

revoke execute on function queue.grant_client(text, uuid) from public;
grant execute on function queue.grant_client(text, uuid) to harkara_engine;
