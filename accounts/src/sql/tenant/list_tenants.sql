-- A page of tenants, newest first. Served by the primary key.
select id, slug, name, sla_tier, status, paused, contract_endpoint_id,
    erasure_asked_at is not null as erasing, created_at
from app.tenants
where id < coalesce($1::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
order by id desc
limit $2::int8
