-- The number of a kind, created if it is new. Served by the unique index on name. The first branch answers
-- without a write. A concurrent insert of the same row is waited for, for a second, and its row returned,
-- because the update returns it.
with guard as materialized (
    -- A long transaction can be inserting the same row.
    select set_config('lock_timeout', '1s', true)
),
known as (
    select id from queue.kinds where name = $1::text
),
made as (
    insert into queue.kinds (name)
    select $1::text where not exists (select from known) and (select count(*) from guard) = 1
    on conflict (name) do update set name = excluded.name
    returning id
)
select id from known union all select id from made
