-- Refuses every change of the audit log. Entries are removed only with their tenant, by a transaction that names it in
-- app.erasing, after its erasure was requested (app.erase_rows).
create or replace function app.refuse_audit_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'DELETE' and old.tenant_id::text = current_setting('app.erasing', true) and exists (
        select from app.tenants t where t.id = old.tenant_id and t.erasure_asked_at is not null
    ) then
        return old;
    end if;
    raise insufficient_privilege using message = 'the audit log is append-only';
end
$$;

create or replace trigger audit_log_is_added_to before update or delete on app.audit_log
    for each row execute function app.refuse_audit_change();
create or replace trigger audit_log_is_not_emptied before truncate on app.audit_log
    execute function app.refuse_audit_change();
create or replace trigger audit_heads_stay before delete on app.audit_heads
    for each row execute function app.refuse_audit_change();
