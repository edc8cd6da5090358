-- The ids of at most $3 of a tenant's jobs that bear all labels of names $4 and values $5, newest first,
-- older than job $2. Served by the primary key of labels: the first label is read downwards from the
-- cursor, the others are asked for each job.
select l.job_id
from queue.labels l
where l.tenant = (select t.number from queue.tenants t where t.id = $1::uuid)
  and l.name = ($4::text[])[1]
  and l.value = ($5::text[])[1]
  and l.job_id < coalesce($2::bigint, 9223372036854775807)
  and not exists (
      select from unnest(($4::text[])[2:], ($5::text[])[2:]) as other(name, value)
      where (
          select count(*) from queue.labels also
          where also.tenant = l.tenant and also.name = other.name and also.value = other.value
            and also.job_id = l.job_id
      ) = 0
  )
order by l.job_id desc
limit $3::int8
