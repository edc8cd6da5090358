-- Deliveries after $2 that have been pending for more than a day. Served by the primary key.
select id, event_id, endpoint_id, job_id, state, attempts, last_status, created_at, finished_at
from app.deliveries
where tenant_id = $1 and state = 'pending' and id > $2::uuid
  and created_at < now() - interval '1 day'
order by id
limit 500
