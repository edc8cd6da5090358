-- Makes the run with token $2 the one that reports progress of job $1 from now on, and returns what was
-- reported before. Served by the primary key.
insert into queue.progress as known (job_id, tenant, progress, run)
select $1::bigint, t.number, 'null', $2::bigint
from queue.tenants t where t.id = app.current_tenant()
on conflict (job_id) do update set run = excluded.run
returning progress
