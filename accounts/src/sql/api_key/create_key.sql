-- Creates a key; no row when its tenant does not exist. A key that replaces another takes over its limits
-- and budget. Served by the primary keys of tenants and api_keys.
insert into app.api_keys (
    tenant_id, id, public_id, hash, last4, name, tier, scopes, expires_at, addresses, created_by,
    rotated_from, limits, family
)
select t.id, $2::uuid, $3::text, $4::bytea, $5::text, $6::text, $7::text, $8::text[], $9::timestamptz,
    $10::text[], $11::text, $12::uuid, o.limits,
    coalesce(o.family, o.id, $2::uuid)
from app.tenants t
left join app.api_keys o on o.tenant_id = t.id and o.id = $12::uuid
where t.id = $1::uuid
returning id, tenant_id, name, public_id, last4, tier, scopes, addresses, created_by, created_at, expires_at,
    revoked_at, last_used_at, rotated_from
