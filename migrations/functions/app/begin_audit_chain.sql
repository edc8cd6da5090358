-- Begins the audit chain of every new tenant: a tenant without one had its chain removed.
create or replace function app.begin_audit_chain() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into app.audit_heads (tenant_id, seq, hash)
    values (new.id, 0, sha256(convert_to(new.id::text, 'UTF8')));
    return new;
end
$$;

revoke execute on function app.begin_audit_chain() from public;

create or replace trigger tenants_have_a_chain after insert on app.tenants
    for each row execute function app.begin_audit_chain();
