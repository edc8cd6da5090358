-- Removes lanes that were created implicitly and have not been used for a day, at most $2 of those after
-- lane $1; returns their number and the last of them. A lane stays that has jobs to come or that can be
-- retried, or that was configured or paused. Lanes are read by primary key; their jobs are probed by
-- parcels_ready, parcels_coming, parcels_lost and parcels_running.
with busy as materialized (
    select p.lane from queue.parcels p where p.state = 'r'
    union
    select p.lane from queue.parcels p where p.state = 'a' and p.lost
),
idle as materialized (
    select l.id
    from queue.lanes l
    where l.id > $1::bigint
      and (l.key <> '' or l.limits <> '')
      and l.used_at < now() - interval '1 day'
      and not l.paused and l.weight = 1 and l.limiter is null and l.breaker_after is null
      and l.head is null
      and (l.parked_until is null or l.parked_until <= now())
      and l.id not in (select b.lane from busy b)
      -- Ordered, and no `exists`: otherwise the plan could read all jobs.
      and (
          select count(*) from (
              select from queue.parcels p
              where p.queue = l.queue and p.lane = l.id and p.state = 'a' and not p.lost
              order by p.priority, p.run_at
              limit 1
          ) ready
      ) = 0
      and (
          select count(*) from (
              select from queue.parcels p
              where p.lane >= l.id and p.lane <= l.id and p.state in ('s', 'x', 'c')
              order by p.lane
              limit 1
          ) coming
      ) = 0
    order by l.id
    limit $2::int4
    for update skip locked
),
removed as (
    delete from queue.lanes l where l.id = any (array(select id from idle))
    returning 1
)
select (select count(*) from removed), (select coalesce(max(id), 0) from idle)
