-- A tenant, locked while the consequences of its status are carried out. Served by the primary key.
select id, slug, name, sla_tier, status, paused, contract_endpoint_id,
    erasure_asked_at is not null as erasing, created_at
from app.tenants
where id = $1::uuid
for no key update
