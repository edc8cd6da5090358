-- A tenant by id or by slug, whichever is given. Served by the primary key or tenants_slug_key.
select id, slug, name, sla_tier, status, paused, contract_endpoint_id,
    erasure_asked_at is not null as erasing, created_at
from app.tenants
where id = $1::uuid or slug = $2::text
