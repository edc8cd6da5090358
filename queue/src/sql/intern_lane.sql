-- The default lane of a tenant in a queue, made if it is new. Served by lanes' unique index.
with known as (
    select id from queue.lanes where queue = $1::int4 and tenant = $2::int4 and key = ''
),
made as (
    insert into queue.lanes (queue, tenant)
    select $1::int4, $2::int4 where not exists (select from known)
    on conflict (queue, tenant, key) do update set used_at = now()
    returning id
)
select id from known union all select id from made
