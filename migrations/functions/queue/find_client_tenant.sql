-- The tenant that the caller can enqueue for: the named one, or the only one it has.
create or replace function queue.find_client_tenant(p_tenant text) returns app.tenants
language plpgsql stable as $$
declare
    own app.tenants;
begin
    if not exists (select from queue.clients c where c.role = session_user) then
        raise exception 'role % is not allowed to enqueue', quote_ident(session_user) using
            errcode = 'HK403',
            detail = queue.field_error('', 'forbidden', 'database role is not allowed to enqueue')::text,
            hint = format('harkara client grant %I --tenant …', session_user);
    end if;
    if p_tenant is null then
        select t.* into own from queue.clients c join app.tenants t on t.id = c.tenant_id
        where c.role = session_user
            and not exists (
                select from queue.clients o
                where o.role = session_user and o.tenant_id is distinct from c.tenant_id
            );
        if not found then
            raise exception '/tenant: is required, because the role can enqueue for several tenants' using
                errcode = 'HK422',
                detail = queue.field_error('/tenant', 'missing', 'is required')::text;
        end if;
        return own;
    end if;
    select t.* into own from app.tenants t
    where (t.id = queue.parse_tenant_id(p_tenant) or t.slug = p_tenant and queue.parse_tenant_id(p_tenant) is null)
        and exists (
            select from queue.clients c
            where c.role = session_user and (c.tenant_id is null or c.tenant_id = t.id)
        );
    if not found then
        raise exception 'tenant not found' using
            errcode = 'HK404',
            detail = queue.field_error('/tenant', 'not_found', 'tenant not found')::text;
    end if;
    return own;
end
$$;

revoke execute on function queue.find_client_tenant(text) from public;
grant execute on function queue.find_client_tenant(text) to harkara_engine;
