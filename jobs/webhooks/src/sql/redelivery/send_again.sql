-- The deliveries $2 are made by the jobs $3 now. Found by primary key.
update app.deliveries d
set state = 'pending', job_id = t.job_id, finished_at = null
from unnest($2::uuid[], $3::bigint[]) as t(id, job_id)
where d.tenant_id = $1 and d.id = t.id
