-- The ids of at most $3 of a tenant's jobs that match, newest first, older than job $2, and beside them, if
-- the looking ended before the jobs did, the id below which to go on: at most $10 rows are looked at. At
-- least one line is answered, without a job if there is none. Scheduled, dead and cancelled jobs are
-- found by parcels_aside, running ones by parcels_running, others by the primary key, read downwards
-- from the cursor; other filters drop rows on the way.
--
-- The jobs of a row lie between its own id and the end of its block of 1024 parcel ids: right there,
-- but for merged rows. So rows are taken until they hold a page; what is newer than the last of them
-- is complete, but for merged rows further down in its block, and these are looked at besides. Only
-- the rows of a page are unpacked, and no body is.
with cursor as materialized (
    select
        (select t.number from queue.tenants t where t.id = $1::uuid) as tenant,
        c.job, (c.job - 1) / 1024 as parcel, (c.job - 1) / 1024 / 1024 * 1024 as block,
        (select k.id from queue.kinds k where k.name = $5::text) as kind,
        (select q.id from queue.queues q where q.name = $6::text) as queue
    from (select coalesce($2::bigint, 9223372036854775807) as job) c
),
-- So many that they are no short way are looked for like others.
running as materialized (
    select
        p.id, p.part, p.lo, p.n, p.gone, p.acked, p.ids, p.created, p.created_at, p.state, p.kind,
        p.queue, p.error_code
    from queue.parcels p
    where $4::text = 'r' and p.state = 'r' and p.tenant = (select tenant from cursor)
    order by p.lease
    limit $10::int8
),
looked as materialized (
    (
        select
            p.id, p.part, p.lo, p.n, p.gone, p.acked, p.ids, p.created, p.created_at, p.state, p.kind,
            p.queue, p.error_code
        from queue.parcels p
        where (
              $4::text is null or $4::text in ('a', 'd')
              or $4::text = 'r' and (select count(*) from running) >= $10::int8
          )
          and p.tenant = (select tenant from cursor)
          and p.id <= (select parcel from cursor)
        order by p.id desc
        fetch first ($10::int8) rows with ties
    )
    union all
    (
        select
            p.id, p.part, p.lo, p.n, p.gone, p.acked, p.ids, p.created, p.created_at, p.state, p.kind,
            p.queue, p.error_code
        from queue.parcels p
        where $4::text in ('s', 'x', 'c')
          and p.state in ('s', 'x', 'c')
          and p.state = $4::text::"char"
          and p.tenant = (select tenant from cursor)
          and p.id <= (select parcel from cursor)
        order by p.id desc
        fetch first ($10::int8) rows with ties
    )
    union all
    select r.* from running r
    where (select count(*) from running) < $10::int8 and r.id <= (select parcel from cursor)
),
-- Where the looking ended. Nothing below was enqueued later than what was looked at last, but for a
-- transaction that began long before it wrote: where that is an hour before the time asked for, all
-- that follows is.
ended as materialized (
    select
        case
            when count(*) >= $10::int8
                and not coalesce(
                    (array_agg(l.created_at order by l.id))[1] < $7::timestamptz - interval '1 hour',
                    false
                )
            then min(l.id)
        end as id
    from looked l
),
head as materialized (
    select h.id, h.part, h.jobs
    from (
        select p.id, p.part, case
            -- Members count one by one where the cursor or the filter goes through the row.
            when p.id = (select parcel from cursor)
                or p.ids is not null and p.id >= (select block from cursor)
                or p.created is not null and coalesce($7::timestamptz, $8::timestamptz) is not null
            then (
                select count(*)
                from rows from (generate_series(1, p.n), unnest(p.ids), unnest(p.created))
                    as u(i, job, created)
                where coalesce(u.job, p.id * 1024 + p.lo + u.i - 1) < (select job from cursor)
                  and u.i <> all (coalesce(p.gone, '{}'))
                  and (
                      $4::text is null
                      or case when u.i = any (p.acked) then 'd' else p.state end = $4::text::"char"
                  )
                  and ($7::timestamptz is null or coalesce(u.created, p.created_at) >= $7::timestamptz)
                  and ($8::timestamptz is null or coalesce(u.created, p.created_at) < $8::timestamptz)
            )
            when p.created_at < $7::timestamptz or p.created_at >= $8::timestamptz then 0
            when $4::text is null or p.state = 'd' then p.n - coalesce(cardinality(p.gone), 0)
            when $4::text = 'd' then coalesce(cardinality(p.acked), 0)
            else p.n - coalesce(cardinality(p.gone), 0) - coalesce(cardinality(p.acked), 0)
        end as jobs
        from looked p
        where (
              $4::text is null or p.state = $4::text::"char" or $4::text = 'd' and p.acked is not null
          )
          and ($5::text is null or p.kind = (select kind from cursor))
          and ($6::text is null or p.queue = (select queue from cursor))
          and ($9::text is null or p.error_code = $9::text)
    ) h
    where h.jobs > 0
    order by h.id desc
    fetch first ($3::int8) rows with ties
),
page as materialized (
    select a.id, a.part
    from (
        select h.id, h.part, sum(h.jobs) over (
            order by h.id desc groups between unbounded preceding and 1 preceding
        ) as newer
        from head h
    ) a
    where coalesce(a.newer, 0) < $3::int8
),
-- What is newer than this is complete: all of the page, if it is full, or all that was looked at.
edge as materialized (
    select e.id, e.id / 1024 * 1024 as block
    from (
        select case
            when e.id is not null and (select coalesce(sum(h.jobs), 0) from head h) < $3::int8 then e.id
            else (select min(g.id) from page g)
        end as id
        from ended e
    ) e
),
rows as materialized (
    select g.id, g.part from page g
    union all
    select m.id, m.part
    from edge e cross join lateral (
        select p.id, p.part from queue.parcels p
        where p.tenant = (select tenant from cursor)
          and p.id >= e.block and p.id < e.id and p.part = 0 and p.ids is not null
        offset 0
    ) m
),
found as materialized (
    select m.job
    from rows r
    cross join lateral (
        select * from queue.parcels p
        where p.tenant = (select tenant from cursor) and p.id = r.id and p.part = r.part
        limit 1
    ) p
    cross join lateral (
        select
            coalesce(u.job, p.id * 1024 + p.lo + u.i - 1) as job,
            coalesce(u.created, p.created_at) as created_at,
            case when u.i = any (p.acked) then 'd' else p.state end as state
        from rows from (generate_series(1, p.n), unnest(p.ids), unnest(p.created))
            as u(i, job, created)
        where u.i <> all (coalesce(p.gone, '{}'))
    ) m
    where m.job < (select job from cursor)
      and ((select id from ended) is null or m.job >= (select id from ended) * 1024)
      and ($4::text is null or m.state = $4::text::"char")
      and ($5::text is null or p.kind = (select kind from cursor))
      and ($6::text is null or p.queue = (select queue from cursor))
      and ($7::timestamptz is null or m.created_at >= $7::timestamptz)
      and ($8::timestamptz is null or m.created_at < $8::timestamptz)
      and ($9::text is null or p.error_code = $9::text)
    order by m.job desc
    limit $3::int8
)
select f.job, e.id * 1024 as below
from ended e left join found f on true
order by f.job desc
