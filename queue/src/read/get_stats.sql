-- Activity of a tenant's jobs from $2 until before $3, of queue $6 and kind $7 where they are given: one
-- row for each step of $4 seconds that has any, counted from midnight UTC. From the minutes or the hours
-- ($5 is m or h) and from the deltas that are not rolled up yet. Served by the primary key of history.
-- waits and runs: see queue.deltas; summed as float8, which is exact to 2^53 and a third faster than int8,
-- whose sum is numeric.
with own as materialized (
    select
        (select t.number from queue.tenants t where t.id = $1::uuid) as tenant,
        (select q.id from queue.queues q where q.name = $6::text) as queue,
        -- Queue 0 is the sum of all queues and kinds together.
        case when $6::text is not null then (select q.id from queue.queues q where q.name = $6::text)
            when $7::text is not null then 1 else 0 end as first_queue,
        case when $6::text is not null then (select q.id from queue.queues q where q.name = $6::text)
            when $7::text is not null then 2147483647 else 0 end as last_queue,
        (select k.id from queue.kinds k where k.name = $7::text) as kind
),
activity as (
    select h.at, h.enqueued, h.started, h.succeeded, h.retried, h.died, h.cancelled, h.waits, h.runs
    from queue.history h
    where h.tenant = (select tenant from own)
      and h.span = $5::text::"char"
      and h.at >= $2::timestamptz and h.at < $3::timestamptz
      and h.queue between (select first_queue from own) and (select last_queue from own)
      and ($7::text is null or h.kind = (select kind from own))
    union all
    select
        d.minute, d.enqueued, d.started, d.succeeded, d.retried, d.died, d.cancelled, d.waits::int8[],
        d.runs::int8[]
    from queue.pending_deltas(coalesce((select tenant from own), 0)) d
    where d.minute >= $2::timestamptz and d.minute < $3::timestamptz
      and ($6::text is null or d.queue = (select queue from own))
      and ($7::text is null or d.kind = (select kind from own))
)
select
    date_bin($4::float8 * interval '1 second', t.at, '1970-01-01 00:00:00+00') as at,
    sum(t.enqueued)::int8 as enqueued, sum(t.started)::int8 as started,
    sum(t.succeeded)::int8 as succeeded, sum(t.retried)::int8 as retried, sum(t.died)::int8 as died,
    sum(t.cancelled)::int8 as cancelled,
    array[sum(t.waits[1]::float8), sum(t.waits[2]::float8), sum(t.waits[3]::float8),
        sum(t.waits[4]::float8), sum(t.waits[5]::float8), sum(t.waits[6]::float8),
        sum(t.waits[7]::float8), sum(t.waits[8]::float8), sum(t.waits[9]::float8),
        sum(t.waits[10]::float8), sum(t.waits[11]::float8), sum(t.waits[12]::float8),
        sum(t.waits[13]::float8), sum(t.waits[14]::float8), sum(t.waits[15]::float8),
        sum(t.waits[16]::float8), sum(t.waits[17]::float8), sum(t.waits[18]::float8),
        sum(t.waits[19]::float8)]::int8[] as waits,
    array[sum(t.runs[1]::float8), sum(t.runs[2]::float8), sum(t.runs[3]::float8),
        sum(t.runs[4]::float8), sum(t.runs[5]::float8), sum(t.runs[6]::float8),
        sum(t.runs[7]::float8), sum(t.runs[8]::float8), sum(t.runs[9]::float8),
        sum(t.runs[10]::float8), sum(t.runs[11]::float8), sum(t.runs[12]::float8),
        sum(t.runs[13]::float8), sum(t.runs[14]::float8), sum(t.runs[15]::float8),
        sum(t.runs[16]::float8), sum(t.runs[17]::float8), sum(t.runs[18]::float8),
        sum(t.runs[19]::float8)]::int8[] as runs
from activity t
group by 1
order by 1
