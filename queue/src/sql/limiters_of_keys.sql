-- The limiters of a tenant's limits, made where $3 says so. Served by the unique index on (tenant, key).
with made as (
    insert into queue.limiters (tenant, key)
    select $1::int4, u.key
    from unnest($2::text[], $3::bool[]) as u(key, make)
    where u.make and not exists (
        select from queue.limiters g where g.tenant = $1::int4 and g.key = u.key
    )
    order by u.key
    -- A neighbour's row is waited for, and answered because it is written.
    on conflict (tenant, key) do update set key = excluded.key
    returning key, id
)
select key, id from made
union all
select g.key, g.id from queue.limiters g where g.tenant = $1::int4 and g.key = any ($2::text[])
