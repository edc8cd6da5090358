-- Claims ready jobs of several queues, in equal shares over the lanes that have any.
-- $1 queues, $2 free places in each, $3 where the round over each queue's lanes goes on,
-- $4 lease, $5 token. Served by parcels_ready: one probe a lane, then the lane's head.
with
-- For this transaction, which is this statement: a claim need not wait for the disk.
quick as materialized (
    select set_config('synchronous_commit', 'off', true)
),
want as (
    select w.queue, w.free, w.after
    from unnest($1::int4[], $2::int4[], $3::bigint[]) as w(queue, free, after)
    cross join quick
    join queue.queues q on q.id = w.queue and not q.paused
    where exists (
        select from queue.leases where id = $4::bigint and expires_at > now() and closed_at is null
    )
),
-- Skip scan: the next lanes after the cursor that have ready parcels, as many as places are free.
visited as materialized (
    select want.queue, want.free, want.after, l.lane
    from want cross join lateral (
        with recursive next_lane(lane, nth) as (
            (
                select p.lane, 1
                from queue.parcels p
                where p.queue = want.queue and p.state = 'a' and p.lane > want.after
                order by p.lane
                limit 1
            )
            union all
            select n.lane, next_lane.nth + 1
            from next_lane cross join lateral (
                select p.lane
                from queue.parcels p
                where p.queue = want.queue and p.state = 'a' and p.lane > next_lane.lane
                order by p.lane
                limit 1
            ) n
            where next_lane.nth < want.free
        )
        select lane from next_lane
    ) l
),
-- Where all lanes are met they share the places. Where a round goes on, each has one: the last few
-- must not have the places of all those before them.
shares as (
    select
        queue,
        case when max(after) = 0 then greatest(1, max(free) / count(*)) else 1 end as share,
        count(*) as lanes, max(lane) as last
    from visited
    group by queue
),
picked as materialized (
    select p.id
    from visited join shares using (queue) cross join lateral (
        select r.id
        from queue.parcels r
        where r.queue = visited.queue and r.lane = visited.lane and r.state = 'a'
        order by r.priority, r.run_at, r.id
        limit shares.share
        for update skip locked
    ) p
),
claimed as (
    update queue.parcels p
    set state = 'r', attempt = p.attempt + 1, lease = $4::bigint, token = $5::bigint,
        started_at = clock_timestamp()
    where p.id = any (array(select id from picked))
    returning p.*
)
select
    c.id, c.queue, k.name as kind, t.id as tenant_id, c.attempt, c.max_attempts, c.deferrals,
    c.run_at, c.started_at, c.lo, c.token, c.body[1] as body, s.queue as visited, s.lanes, s.last
from shares s
left join claimed c on c.queue = s.queue
left join queue.kinds k on k.id = c.kind
left join queue.tenants t on t.number = c.tenant
order by c.priority, c.run_at, c.id
