-- Locks limiters that have no limit and that no lane names, at most $1, and returns their ids. There are
-- few limiters, and the lanes are read once.
with named as materialized (
    select distinct g.id from queue.lanes l cross join lateral unnest(l.named) as g(id)
)
select g.id
from queue.limiters g
where g.key is not null
  and g.used_at < now() - interval '1 day'
  and g.max_running is null and g.rate_count is null and g.running = 0
  and g.id not in (select n.id from named n)
order by g.id
limit $1::int4
for update of g skip locked
