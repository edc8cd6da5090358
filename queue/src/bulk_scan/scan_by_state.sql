-- The next jobs of tenant $1, at most $4, oldest first, after job $2 and before job $3, that are in one of
-- the states $5 and match; and the job up to which all were read. Of each state at most $11 rows are read,
-- so that a filter that few match takes many short steps. Only for the states scheduled, dead and
-- cancelled, whose rows parcels_aside serves; no such row was merged. As list_jobs.sql, in the other
-- direction.
with own as materialized (
    select
        (select t.number from queue.tenants t where t.id = $1::uuid) as tenant,
        ($2::bigint + 1) / 1024 as nearest, ($3::bigint - 1) / 1024 as furthest,
        (select k.id from queue.kinds k where k.name = $6::text) as kind,
        (select q.id from queue.queues q where q.name = $7::text) as queue
),
head as materialized (
    select s.state, p.*
    from unnest($5::text[]) as s(state)
    cross join lateral (
        select p.id, p.lo, p.n, p.gone, (
            ($6::text is null or p.kind = (select kind from own))
            and ($7::text is null or p.queue = (select queue from own))
            and ($8::timestamptz is null or p.created_at >= $8::timestamptz)
            and ($9::timestamptz is null or p.created_at < $9::timestamptz)
            and ($10::text is null or p.error_code = $10::text)
        ) as fits
        from queue.parcels p
        where p.tenant = (select tenant from own)
          and p.state = s.state::"char" and p.state in ('s', 'x', 'c')
          and p.id >= (select nearest from own) and p.id <= (select furthest from own)
        order by p.id
        fetch first ($11::int8) rows with ties
    ) p
),
-- Rows beyond the first of these were possibly not read.
edge as materialized (
    select min(e.id) as id
    from (
        select max(h.id) as id from head h group by h.state having count(*) >= $11::int8
    ) e
),
page as materialized (
    select m.job
    from head h
    cross join lateral (
        select h.id * 1024 + h.lo + i - 1 as job
        from generate_series(1, h.n) i
        where i <> all (coalesce(h.gone, '{}'))
    ) m
    where h.fits
      and h.id <= coalesce((select id from edge), h.id)
      and m.job > $2::bigint and m.job < $3::bigint
    order by m.job
    limit $4::int8
)
select
    coalesce(array_agg(p.job order by p.job), '{}') as jobs,
    case
        when count(*) >= $4::int8 then max(p.job)
        else least((select id from edge) * 1024 + 1023, $3::bigint - 1)
    end as upto
from page p
