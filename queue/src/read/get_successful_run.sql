-- What a job's row records of its runs: the earliest possible start, and the details of the successful
-- run. Served by queue.find_jobs, then by the primary key.
select
    coalesce(p.created[f.member], p.created_at),
    case when acked.place is null then p.state else 'd' end::text,
    p.started_at,
    case when acked.place is null then p.finished_at else p.acked_at[acked.place] end,
    (select l.worker_id from queue.leases l where l.id = p.lease)
from queue.find_jobs(array[$1::bigint]) f
cross join lateral (
    select * from queue.parcels r
    where r.tenant = f.tenant and r.id = f.id and r.part = f.part
    limit 1
) p
cross join lateral (select array_position(p.acked, f.member) as place) acked
