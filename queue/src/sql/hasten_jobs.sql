-- Makes scheduled jobs ready now, and wakes their workers if $2. Found by primary key, locked in one
-- order.
with waiting as materialized (
    select id from queue.parcels
    where id = any ($1::bigint[]) and state = 's'
    order by id
    for update
),
hastened as (
    update queue.parcels p
    set state = 'a', run_at = now()
    where p.id = any (array(select id from waiting))
    returning p.queue
)
select pg_notify('harkara', 'q:' || left(string_agg(distinct queue::text, ','), 4000))::text
from hastened
where $2::bool
having count(*) > 0
