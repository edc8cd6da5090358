-- The ids of at most $3 of a tenant's jobs that have all labels of names $4 and values $5, newest first,
-- older than job $2; and, if the read ended before the jobs did, the id below which to continue: at most
-- $6 jobs with the first label are read. At least one row is returned, without a job if there is none.
-- Served by the primary key of labels: the first label is read downwards from the cursor, the others are
-- probed for each job. The cursor is computed apart: row-level security keeps expressions out of an index
-- lookup.
with cursor as materialized (
    select
        coalesce($2::bigint, 9223372036854775807) as job, ($4::text[])[1] as name,
        ($5::text[])[1] as value
),
examined as materialized (
    select l.tenant, l.job_id
    from queue.labels l
    where l.tenant = (select t.number from queue.tenants t where t.id = $1::uuid)
      and l.name = (select c.name from cursor c)
      and l.value = (select c.value from cursor c)
      and l.job_id < (select c.job from cursor c)
    order by l.job_id desc
    limit $6::int8
),
found as materialized (
    select l.job_id
    from examined l
    where not exists (
        select from unnest(($4::text[])[2:], ($5::text[])[2:]) as other(name, value)
        where (
            select count(*) from queue.labels also
            where also.tenant = l.tenant and also.name = other.name and also.value = other.value
              and also.job_id = l.job_id
        ) = 0
    )
    order by l.job_id desc
    limit $3::int8
)
select f.job_id as job, e.below
from (
    select case when count(*) >= $6::int8 then min(l.job_id) end as below from examined l
) e
left join found f on true
order by f.job_id desc
