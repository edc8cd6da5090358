-- Appends an entry to a tenant's audit chain and returns its number. Runs with the rights of the owner: no other role
-- can write the log. In a tenant's transaction it appends to that tenant's chain only.
create or replace function app.append_audit_entry(
    p_tenant uuid, p_actor_kind text, p_actor_id text, p_actor_name text, p_action text,
    p_resource text, p_address text, p_user_agent text, p_request_id text, p_before jsonb,
    p_after jsonb, p_reason text
) returns int8
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    head app.audit_heads;
    entry app.audit_log;
begin
    if coalesce(app.current_tenant() <> p_tenant, current_setting('role') = 'harkara_app') then
        raise insufficient_privilege using message = 'audit entry for another tenant';
    end if;
    select * into head from app.audit_heads h where h.tenant_id = p_tenant for no key update;
    if not found then
        -- The chain is not begun again: that would hide that it was removed.
        raise data_corrupted using message = 'the tenant has no audit log';
    end if;
    entry.tenant_id := p_tenant;
    entry.seq := head.seq + 1;
    -- Not the transaction's start: under the lock, entries are in the order of their times.
    entry.at := clock_timestamp();
    entry.actor_kind := p_actor_kind;
    entry.actor_id := p_actor_id;
    entry.actor_name := p_actor_name;
    entry.action := p_action;
    entry.resource := p_resource;
    entry.address := p_address;
    entry.user_agent := p_user_agent;
    entry.request_id := p_request_id;
    entry.before := p_before;
    entry.after := p_after;
    entry.reason := p_reason;
    entry.hash := app.hash_audit_entry(head.hash, entry);
    insert into app.audit_log select entry.*;
    update app.audit_heads h set seq = entry.seq, hash = entry.hash where h.tenant_id = p_tenant;
    return entry.seq;
end
$$;

revoke execute on function app.append_audit_entry(
    uuid, text, text, text, text, text, text, text, text, jsonb, jsonb, text
) from public;
grant execute on function app.append_audit_entry(
    uuid, text, text, text, text, text, text, text, text, jsonb, jsonb, text
) to harkara_app, harkara_engine;
