-- The run with token $2 of job $1 is the one that tells from now on; answers what was told before. Served by
-- the primary key.
insert into queue.progress as known (job_id, tenant, progress, run)
select $1::bigint, t.number, 'null', $2::bigint
from queue.tenants t where t.id = app.current_tenant()
on conflict (job_id) do update set run = excluded.run
returning progress
