-- The number of a tenant, created if it is new. Served by the unique index on id. The first branch answers
-- without a write. A concurrent insert of the same row is waited for, for a second, and its row returned,
-- because the update returns it.
with guard as materialized (
    -- A long transaction can be inserting the same row.
    select set_config('lock_timeout', '1s', true)
),
known as (
    select number from queue.tenants where id = $1::uuid
),
made as (
    insert into queue.tenants (id)
    select $1::uuid where not exists (select from known) and (select count(*) from guard) = 1
    on conflict (id) do update set id = excluded.id
    returning number
)
select number from known union all select number from made
