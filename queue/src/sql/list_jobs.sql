-- The ids of at most $3 of a tenant's jobs that match, newest first, older than job $2. Served by the
-- primary key, read downwards from the cursor; filters drop rows on the way.
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
        from queue.parcels p
        where p.tenant = (select tenant from cursor)
          and p.id <= (select parcel from cursor)
          and (
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
edge as materialized (
    select min(g.id) as id, min(g.id) / 1024 * 1024 as block from page g
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
)
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
  and ($4::text is null or m.state = $4::text::"char")
  and ($5::text is null or p.kind = (select kind from cursor))
  and ($6::text is null or p.queue = (select queue from cursor))
  and ($7::timestamptz is null or m.created_at >= $7::timestamptz)
  and ($8::timestamptz is null or m.created_at < $8::timestamptz)
  and ($9::text is null or p.error_code = $9::text)
order by m.job desc
limit $3::int8
