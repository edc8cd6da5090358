-- One of the tenant's keys. Served by the primary key.
select id, tenant_id, name, public_id, last4, tier, scopes, addresses, created_by, created_at, expires_at,
    revoked_at, last_used_at, rotated_from
from app.api_keys
where tenant_id = app.current_tenant() and id = $1::uuid
for no key update
