-- A key that has not been revoked, by its public id. Served by api_keys_public_id_key and the primary key
-- of tenants.
select k.id, k.tenant_id, t.slug as tenant_slug, k.hash, k.scopes, k.expires_at, k.name, k.tier,
    k.addresses as allowed_networks, t.status as tenant_status, k.limits, coalesce(k.family, k.id) as family
from app.api_keys k
join app.tenants t on t.id = k.tenant_id
where k.public_id = $1::text and k.revoked_at is null
