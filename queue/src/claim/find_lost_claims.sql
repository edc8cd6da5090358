-- Rows that run under lease $1 with none of the tokens $2: claims that their worker does not know of.
-- Served by parcels_running and the primary key of lanes.
select
    p.lane, p.token, p.id, p.part, p.tenant, p.kind, p.priority, p.attempt, p.max_attempts,
    p.deferrals, p.lo, p.n, p.ids, coalesce(p.gone, '{}') || coalesce(p.acked, '{}') as gone,
    p.queue, p.run_at, p.started_at, p.lost, l.key <> '' or l.limits <> '' as parks,
    p.probe as trial, p.body
from queue.parcels p join queue.lanes l on l.id = p.lane
where p.state = 'r' and p.lease = $1::bigint and p.token <> all ($2::bigint[])
