-- Writes the labels by which the new jobs can be searched.
insert into queue.labels (tenant, name, value, job_id)
select l.tenant, l.name, l.value, l.job_id
from unnest($1::int4[], $2::text[], $3::text[], $4::bigint[]) as l(tenant, name, value, job_id)
on conflict do nothing
