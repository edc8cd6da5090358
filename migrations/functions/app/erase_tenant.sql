-- The last step of an erasure: removes the end of the audit chain, and the tenant itself. Returns the tenant's names and
-- where the chain ended; no row if entries were added meanwhile, or no such canceled tenant exists. Rows that are left in
-- other tables make it fail by their foreign keys.
create or replace function app.erase_tenant(p_tenant uuid)
returns table (slug text, name text, seq int8, hash bytea)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set jit = off as $$
#variable_conflict use_column
begin
    select t.slug, t.name into slug, name from app.tenants t
    where t.id = p_tenant and t.status = 'canceled' and t.erasure_asked_at is not null for update;
    if not found then
        return;
    end if;
    select h.seq, h.hash into seq, hash from app.audit_heads h where h.tenant_id = p_tenant for update;
    if exists (select from app.audit_log a where a.tenant_id = p_tenant) then
        return;
    end if;
    perform set_config('app.erasing', p_tenant::text, true);
    delete from app.audit_heads h where h.tenant_id = p_tenant;
    delete from app.tenants t where t.id = p_tenant;
    return next;
end
$$;

revoke execute on function app.erase_tenant(uuid) from public;
grant execute on function app.erase_tenant(uuid) to harkara_engine;
