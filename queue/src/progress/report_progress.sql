-- Records the progress $2 of job $1 of the running transaction's tenant. Served by the primary key.
insert into queue.progress as known (job_id, tenant, progress)
select $1::bigint, t.number, $2::jsonb from queue.tenants t where t.id = app.current_tenant()
on conflict (job_id) do update set progress = excluded.progress, updated_at = now()
