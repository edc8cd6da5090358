-- A page of live workers, by id, and how many jobs each holds. $1 a tenant, or null for operators, who see
-- everything: a tenant sees workers of queues that it has lanes in or that $2 names, these queues, and its
-- own jobs. $3 the worker after which the page begins. Served by leases_open and the primary key of
-- workers, lanes' unique index, parcels_running; of each worker at most 10 000 rows are counted.
with live as materialized (
    select l.worker_id, array_agg(l.id) as leases
    from queue.leases l
    where l.closed_at is null and l.expires_at > now()
      and ($3::uuid is null or l.worker_id > $3::uuid)
    group by l.worker_id
),
viewer as materialized (
    select number from queue.tenants where id = $1::uuid
)
select
    w.id, w.host, w.version, w.started_at, w.last_seen_at, s.queues,
    (
        select coalesce(sum(h.jobs), 0)::int8
        from (
            select p.n - coalesce(cardinality(p.gone), 0) - coalesce(cardinality(p.acked), 0) as jobs
            from queue.parcels p
            where p.state = 'r' and p.lease = any (v.leases)
              and ($1::uuid is null or p.tenant = (select number from viewer))
            limit 10000
        ) h
    ) as running
from live v
join queue.workers w on w.id = v.worker_id
cross join lateral (
    select coalesce(jsonb_object_agg(e.key, e.value), '{}') as queues
    from jsonb_each(w.queues) e
    where $1::uuid is null
       or e.key = any ($2::text[])
       or exists (
           select from queue.lanes a
           where a.queue = (select q.id from queue.queues q where q.name = e.key)
             and a.tenant = (select number from viewer)
       )
) s
where $1::uuid is null or s.queues <> '{}'
order by w.id
limit $4::int8
