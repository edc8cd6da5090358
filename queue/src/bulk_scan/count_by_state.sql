-- How many jobs of kind $2 tenant $1 has in queue $3 in the states $4, of the counted ones: scheduled,
-- ready, running and dead. The sum of queue.tallies and the deltas that are not rolled up yet. Served by
-- the primary key of tallies and deltas_new.
with rollup as materialized (
    select f.last_snapshot from queue.rollup_state f
),
counts as (
    select t.queue, t.kind, t.scheduled, t.ready, t.running, t.dead
    from queue.tallies t
    where t.tenant = (select n.number from queue.tenants n where n.id = $1::uuid)
    union all
    select d.queue, d.kind, d.scheduled, d.ready, d.running, d.dead
    from queue.deltas d
    where d.tenant = (select n.number from queue.tenants n where n.id = $1::uuid)
      and d.xid >= (select pg_snapshot_xmax(f.last_snapshot) from rollup f)
    union all
    select d.queue, d.kind, d.scheduled, d.ready, d.running, d.dead
    from queue.deltas d
    where d.tenant = (select n.number from queue.tenants n where n.id = $1::uuid)
      and d.xid = any (array(select pg_snapshot_xip(f.last_snapshot) from rollup f))
)
select coalesce(sum(
    case when 's' = any ($4::text[]) then c.scheduled else 0 end
    + case when 'a' = any ($4::text[]) then c.ready else 0 end
    + case when 'r' = any ($4::text[]) then c.running else 0 end
    + case when 'x' = any ($4::text[]) then c.dead else 0 end
), 0)::int8
from counts c
where ($2::text is null or c.kind = (select k.id from queue.kinds k where k.name = $2::text))
  and ($3::text is null or c.queue = (select q.id from queue.queues q where q.name = $3::text))
