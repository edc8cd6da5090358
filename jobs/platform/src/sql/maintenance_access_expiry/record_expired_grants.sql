-- Marks expired role grants as recorded in the audit log, at most $1, and returns them in the order of
-- their tenants. Served by role_grants_expiry, one probe a tenant, and the primary key.
with due as materialized (
    select g.tenant_id, g.id
    from app.tenants t cross join lateral (
        select a.tenant_id, a.id from app.role_grants a
        where a.tenant_id = t.id and a.expires_at <= now() and a.expires_at is not null
          and a.revoked_at is null and not a.expiry_told
        order by a.expires_at
        limit $1::int8
        for update skip locked
    ) g
    limit $1::int8
),
marked as (
    update app.role_grants a set expiry_told = true
    from due d
    where a.tenant_id = d.tenant_id and a.id = d.id
    returning a.tenant_id, a.id, a.user_id, a.role, a.expires_at
)
select tenant_id, id, user_id, jsonb_build_object('role', role, 'expires_at', expires_at) as before
from marked
order by tenant_id, expires_at, id
