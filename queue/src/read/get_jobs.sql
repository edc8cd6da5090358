-- Those of the jobs $1 that the tenant has and that match, in no order. Served by queue.find_jobs, then by
-- the primary key: each row once, so that its bodies are unpacked once however many members are read.
with asked as materialized (
    select f.tenant, f.id, f.part, array_agg(f.member) as members
    from queue.find_jobs($1::bigint[]) f
    group by f.tenant, f.id, f.part
)
select
    m.job, t.id as tenant_id, k.name as kind, q.name as queue, m.state::text as state, p.priority,
    p.attempt, p.max_attempts, p.expires_at, m.run_at, m.created_at, p.started_at, m.finished_at,
    p.error_code, p.error_message, m.result, m.body,
    (
        select nullif(g.progress, 'null') from queue.progress g
        where g.tenant = p.tenant and g.job_id = m.job
    ) as progress
from asked a
cross join lateral (
    select * from queue.parcels r
    where r.tenant = a.tenant and r.id = a.id and r.part = a.part
    limit 1
) p
cross join lateral (
    select
        u.body, u.result, coalesce(u.job, p.id * 1024 + p.lo + u.member - 1) as job,
        coalesce(u.created, p.created_at) as created_at,
        case when p.ids is null then p.run_at else coalesce(u.due, u.created, p.created_at) end
            as run_at,
        case when acked.place is null then p.state else 'd' end as state,
        case when acked.place is null then p.finished_at else p.acked_at[acked.place] end
            as finished_at
    from unnest(p.body, p.results, p.ids, p.created, p.due) with ordinality
        as u(body, result, job, created, due, member)
    cross join lateral (select array_position(p.acked, u.member::int2) as place) acked
    where u.member = any (a.members)
) m
join queue.kinds k on k.id = p.kind
join queue.queues q on q.id = p.queue
join queue.tenants t on t.number = p.tenant
where ($2::text is null or m.state = $2::text::"char")
  and ($3::text is null or k.name = $3::text)
  and ($4::text is null or q.name = $4::text)
  and ($5::timestamptz is null or m.created_at >= $5::timestamptz)
  and ($6::timestamptz is null or m.created_at < $6::timestamptz)
  and ($7::text is null or p.error_code = $7::text)
