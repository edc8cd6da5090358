-- As scan_by_state.sql, for all states: rows are read by the primary key, at most $11 of them. Merged rows
-- hold jobs up to the end of their block of 1024 parcel ids: those of the current block are read as well.
with own as materialized (
    select
        (select t.number from queue.tenants t where t.id = $1::uuid) as tenant,
        ($2::bigint + 1) / 1024 as nearest, ($3::bigint - 1) / 1024 as furthest,
        ($2::bigint + 1) / 1024 / 1024 * 1024 as block,
        (select k.id from queue.kinds k where k.name = $6::text) as kind,
        (select q.id from queue.queues q where q.name = $7::text) as queue
),
ahead as materialized (
    select p.id, p.part, p.state = any ($5::text[]::"char"[]) or p.acked is not null as fits
    from queue.parcels p
    where p.tenant = (select tenant from own)
      and p.id >= (select nearest from own) and p.id <= (select furthest from own)
    order by p.id
    fetch first ($11::int8) rows with ties
),
edge as materialized (
    select max(a.id) as id from ahead a having count(*) >= $11::int8
),
head as materialized (
    select a.id, a.part from ahead a where a.fits
    union all
    select m.id, m.part
    from own o cross join lateral (
        select p.id, p.part from queue.parcels p
        where p.tenant = o.tenant and p.id >= o.block and p.id < o.nearest and p.part = 0
          and p.ids is not null
        offset 0
    ) m
),
page as materialized (
    select m.job
    from head h
    cross join lateral (
        select * from queue.parcels p
        where p.tenant = (select tenant from own) and p.id = h.id and p.part = h.part
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
    where m.job > $2::bigint and m.job < $3::bigint
      and m.job < coalesce((select id from edge) * 1024 + 1024, $3::bigint)
      and m.state = any ($5::text[]::"char"[])
      and ($6::text is null or p.kind = (select kind from own))
      and ($7::text is null or p.queue = (select queue from own))
      and ($8::timestamptz is null or m.created_at >= $8::timestamptz)
      and ($9::timestamptz is null or m.created_at < $9::timestamptz)
      and ($10::text is null or p.error_code = $10::text)
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
