-- The limiters of a tenant's limits, created where $3 is true. Served by the unique index on (tenant,
-- key).
with made as (
    insert into queue.limiters (tenant, key)
    select $1::int4, u.key
    from unnest($2::text[], $3::bool[]) as u(key, make)
    where u.make and not exists (
        select from queue.limiters g where g.tenant = $1::int4 and g.key = u.key
    )
    order by u.key
    -- A concurrent insert is waited for, and its row returned because it is updated.
    on conflict (tenant, key) do update set key = excluded.key
    returning key, id
)
select key, id from made
union all
select g.key, g.id from queue.limiters g where g.tenant = $1::int4 and g.key = any ($2::text[])
