-- The deliveries of one event.
insert into app.deliveries (tenant_id, event_id, id, endpoint_id, job_id)
select $1, $2, d.id, d.endpoint_id, d.job_id
from unnest($3::uuid[], $4::uuid[], $5::bigint[]) as d(id, endpoint_id, job_id)
