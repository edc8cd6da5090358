-- Assigns the jobs $3 to the deliveries $2. Served by the primary key.
update app.deliveries d
set state = 'pending', job_id = t.job_id, finished_at = null
from unnest($2::uuid[], $3::bigint[]) as t(id, job_id)
where d.tenant_id = $1 and d.id = t.id
