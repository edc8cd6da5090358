-- Jobs of an endpoint's pending deliveries, among its latest fifty thousand; the others see the change
-- when they are due. Served by deliveries_endpoint.
select l.job_id
from (
    select d.job_id, d.state
    from app.deliveries d
    where d.tenant_id = $1 and d.endpoint_id = $2
    order by d.id desc
    limit 50000
) l
where l.state = 'pending' and l.job_id is not null
limit 10000
