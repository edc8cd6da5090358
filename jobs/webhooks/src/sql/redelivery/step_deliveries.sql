-- The last of the next $5 deliveries of endpoint $2 after $3, up to $4; no row when there are none. Served
-- by deliveries_endpoint.
select l.id
from (
    select d.id from app.deliveries d
    where d.tenant_id = $1 and d.endpoint_id = $2 and d.id > $3::uuid and d.id <= $4::uuid
    order by d.id
    limit $5::int8
) l
order by l.id desc
limit 1
