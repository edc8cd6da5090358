-- Marks expired API keys as recorded in the audit log, at most $1, and returns them in the order of their
-- tenants. Served by api_keys_expiry, one probe a tenant, and the primary key.
with due as materialized (
    select k.tenant_id, k.id
    from app.tenants t cross join lateral (
        select a.tenant_id, a.id from app.api_keys a
        where a.tenant_id = t.id and a.expires_at <= now() and a.expires_at is not null
          and a.revoked_at is null and not a.expiry_told
        order by a.expires_at
        limit $1::int8
        for update skip locked
    ) k
    limit $1::int8
),
marked as (
    update app.api_keys a set expiry_told = true
    from due d
    where a.tenant_id = d.tenant_id and a.id = d.id
    returning a.tenant_id, a.id, a.name, a.expires_at
)
select tenant_id, id, jsonb_build_object('name', name, 'expires_at', expires_at) as before
from marked
order by tenant_id, expires_at, id
