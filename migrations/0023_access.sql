-- What API keys and tenants may do and from where; who pauses a tenant.
-- Locks: ACCESS EXCLUSIVE on app.api_keys and app.tenants for the moment of each change: columns with
-- constant defaults rewrite nothing. Previous release: goes on; it does not look at the new columns, so
-- that a key's address list holds only once all of the API runs this release.

alter table app.api_keys
    add column created_by text,
    -- Networks the key may be used from; none for all.
    add column addresses text[] not null default '{}',
    -- To the minute.
    add column last_used_at timestamptz,
    -- The key that this one took the place of, and the first of those that took each other's: requests are
    -- limited by it, so that a new text is no new budget.
    add column rotated_from uuid,
    add column family uuid,
    -- Limits of requests that hold instead of the tier's.
    add column limits jsonb,
    -- Its expiry stands in the audit log.
    add column expiry_told boolean not null default false;

alter table app.tenants
    -- The operator paused it, whatever its status says.
    add column paused boolean not null default false,
    -- Somebody asked for its erasure, which cannot be taken back.
    add column erasure_asked_at timestamptz,
    -- The endpoint that its contract was set up with.
    add column contract_endpoint_id uuid,
    add column updated_at timestamptz not null default now();

-- Tenants that were paused before pauses were noted here.
update app.tenants t set paused = true
from queue.tenants q
where q.id = t.id and q.paused;
-- And the other way round: what a status forbids did not hold before.
update queue.tenants q set paused = true
from app.tenants t
where t.id = q.id and t.status in ('suspended', 'canceled') and not q.paused;

-- A tenant's keys are made and changed in its own transactions, with the entries of its audit log.
grant insert, update on app.api_keys to harkara_app;
grant update (contract_endpoint_id) on app.tenants to harkara_app;

-- Applications that enqueue by SQL are held by the tenant's status as those over HTTP are.
alter function queue.client_tenant(text) rename to named_tenant;
create function queue.client_tenant(p_tenant text) returns app.tenants
language plpgsql stable as $$
declare
    own app.tenants := queue.named_tenant(p_tenant);
begin
    if own.status in ('suspended', 'pending_payment', 'canceled') then
        raise exception 'the tenant is %: nothing is enqueued for it', own.status using
            errcode = 'HK403',
            detail = queue.fault('/tenant', 'tenant_' || own.status, 'the tenant is ' || own.status)::text;
    end if;
    return own;
end
$$;
revoke execute on function queue.client_tenant(text), queue.named_tenant(text) from public;

-- A login role that is a member of both runtime roles and owns nothing is enough to run the platform: it
-- needs to know which migrations there are.
grant select on _sqlx_migrations to harkara_app, harkara_engine;
