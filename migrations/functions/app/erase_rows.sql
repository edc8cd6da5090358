-- Removes at most p_limit of a tenant's rows from a table, and returns their number. Runs with the rights of the owner,
-- since no other role can remove keys and audit entries; only for a canceled tenant whose erasure was requested.
-- Served by the primary key of each table, which begins with the tenant.
create or replace function app.erase_rows(p_tenant uuid, p_table text, p_limit int4) returns int8
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set jit = off as $$
declare
    removed int8;
begin
    if not exists (
        select from app.tenants t
        where t.id = p_tenant and t.status = 'canceled' and t.erasure_asked_at is not null
    ) then
        raise insufficient_privilege using message = 'only a canceled tenant whose erasure was requested can be erased';
    end if;
    if p_table = 'audit_heads' then
        raise insufficient_privilege using message = 'the end of the chain is removed with the tenant';
    end if;
    perform set_config('app.erasing', p_tenant::text, true),
        set_config('app.tenant_id', p_tenant::text, true);
    execute format(
        'delete from app.%1$I t where t.ctid = any (array(
            select o.ctid from app.%1$I o where o.tenant_id = $1 limit $2
        ))', p_table
    ) using p_tenant, p_limit;
    get diagnostics removed = row_count;
    return removed;
end
$$;

revoke execute on function app.erase_rows(uuid, text, int4) from public;
grant execute on function app.erase_rows(uuid, text, int4) to harkara_engine;
