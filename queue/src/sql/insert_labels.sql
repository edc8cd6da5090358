-- What the new jobs may be searched by.
insert into queue.labels (tenant, name, value, job_id)
select $1::int4, l.name, l.value, l.job_id
from unnest($2::text[], $3::text[], $4::bigint[]) as l(name, value, job_id)
on conflict do nothing
