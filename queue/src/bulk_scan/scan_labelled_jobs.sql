-- As scan_by_state.sql, for jobs that have all labels of names $11 and values $12: at most $13 of these are
-- read. Served by the primary key of labels, as in list_labelled_jobs.sql, then by queue.find_jobs.
with marked as materialized (
    select l.job_id
    from queue.labels l
    where l.tenant = (select t.number from queue.tenants t where t.id = $1::uuid)
      and l.name = ($11::text[])[1]
      and l.value = ($12::text[])[1]
      and l.job_id > $2::bigint and l.job_id < $3::bigint
      and not exists (
          select from unnest(($11::text[])[2:], ($12::text[])[2:]) as other(name, value)
          where (
              select count(*) from queue.labels also
              where also.tenant = l.tenant and also.name = other.name and also.value = other.value
                and also.job_id = l.job_id
          ) = 0
      )
    order by l.job_id
    limit $13::int8
),
place as materialized (
    select f.* from queue.find_jobs(array(select job_id from marked)) f
),
page as materialized (
    select f.job
    from place f
    cross join lateral (
        select
            r.kind, r.queue, r.error_code, coalesce(r.created[f.member], r.created_at) as created_at,
            case when f.member = any (r.acked) then 'd' else r.state end as state
        from queue.parcels r
        where r.tenant = f.tenant and r.id = f.id and r.part = f.part
        limit 1
    ) p
    where p.state = any ($5::text[]::"char"[])
      and ($6::text is null or p.kind = (select k.id from queue.kinds k where k.name = $6::text))
      and ($7::text is null or p.queue = (select q.id from queue.queues q where q.name = $7::text))
      and ($8::timestamptz is null or p.created_at >= $8::timestamptz)
      and ($9::timestamptz is null or p.created_at < $9::timestamptz)
      and ($10::text is null or p.error_code = $10::text)
    order by f.job
    limit $4::int8
)
select
    coalesce(array_agg(p.job order by p.job), '{}') as jobs,
    case
        when count(*) >= $4::int8 then max(p.job)
        when (select count(*) from marked) >= $13::int8 then (select max(job_id) from marked)
        else $3::bigint - 1
    end as upto
from page p
