-- Sets or removes the own limits of one of the tenant's keys, and returns the limits before and after.
-- Served by the primary key.
with old as (
    select id, limits from app.api_keys
    where tenant_id = app.current_tenant() and id = $1::uuid and revoked_at is null
    for no key update
)
update app.api_keys k set limits = $2::jsonb
from old
where k.tenant_id = app.current_tenant() and k.id = old.id
returning k.public_id, k.tier, old.limits as before
