-- The tenant that the caller of queue.enqueue can enqueue for: the named one, or the only one it has. Refuses a
-- tenant whose status forbids new jobs, as the HTTP API does.
create or replace function queue.client_tenant(p_tenant text) returns app.tenants
language plpgsql stable as $$
declare
    own app.tenants := queue.find_client_tenant(p_tenant);
begin
    if own.status in ('suspended', 'pending_payment', 'canceled') then
        raise exception 'tenant is %; jobs cannot be enqueued', own.status using
            errcode = 'HK403',
            detail = queue.field_error('/tenant', 'tenant_' || own.status, 'tenant is ' || own.status)::text;
    end if;
    return own;
end
$$;

revoke execute on function queue.client_tenant(text) from public;
