-- A tenant's contract, and the tiers of its working keys. Served by the primary keys of tenants and
-- api_keys.
select t.sla_tier, coalesce(array(
    select distinct k.tier from app.api_keys k
    where k.tenant_id = t.id and k.revoked_at is null and (k.expires_at is null or k.expires_at > now())
), '{}')
from app.tenants t
where t.id = $1::uuid
