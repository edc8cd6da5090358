-- An endpoint's hours, latest first, from the one that contains $3; at most those of a month. Served by
-- the primary key.
select hour, succeeded, failed, last_success_at, last_failure_at, durations
from app.endpoint_hours
where tenant_id = $1 and endpoint_id = $2 and hour >= date_trunc('hour', $3::timestamptz, 'UTC')
order by hour desc
limit 745
