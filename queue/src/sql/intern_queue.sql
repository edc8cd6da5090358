-- The number of a queue, made if it is new. Served by the unique index on name.
-- The first branch answers without a write; a neighbour making the same row at the same time is
-- waited for and its row answered, because the update returns it.
with known as (
    select id from queue.queues where name = $1::text
),
made as (
    insert into queue.queues (name)
    select $1::text where not exists (select from known)
    on conflict (name) do update set name = excluded.name
    returning id
)
select id from known union all select id from made
