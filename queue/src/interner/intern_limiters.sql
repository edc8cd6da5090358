-- The limiters of a tenant's limits, created if they are new, in the order of the keys $2. A limiter that
-- no job has named for a day is removed, so its use is recorded in time. Locked in the order of their ids,
-- like everywhere. Served by the unique index of limiters.
with guard as materialized (
    -- A long transaction can be inserting the same row.
    select set_config('lock_timeout', '1s', true)
),
wanted as materialized (
    select key, nth from unnest($2::text[]) with ordinality as w(key, nth)
),
known as materialized (
    select g.id, g.key, g.used_at from queue.limiters g
    where g.tenant = $1::int4 and g.key = any ($2::text[])
),
made as (
    insert into queue.limiters (tenant, key)
    select $1::int4, w.key from wanted w
    where w.key not in (select key from known) and (select count(*) from guard) = 1
    order by w.key
    on conflict (tenant, key) do update set key = excluded.key
    returning id, key
),
stale as materialized (
    select g.id from queue.limiters g
    where g.id = any (array(select id from known where used_at < now() - interval '1 hour'))
    order by g.id
    for no key update
),
used as (
    update queue.limiters g set used_at = now() from stale s where g.id = s.id
)
select f.id
from wanted w
join (select id, key from known union all select id, key from made) f using (key)
order by w.nth
