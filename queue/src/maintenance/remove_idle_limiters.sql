-- Removes those of the locked limiters $1 that no lane names: a lane that was being created when they were
-- chosen is visible now.
with named as materialized (
    select distinct g.id from queue.lanes l cross join lateral unnest(l.named) as g(id)
),
removed as (
    delete from queue.limiters g
    where g.id = any ($1::bigint[]) and g.id not in (select n.id from named n)
    returning 1
)
select count(*) from removed
