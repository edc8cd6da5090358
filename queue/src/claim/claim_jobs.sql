-- Claims jobs of one queue from the lanes that a worker chose: see queue.claim. Which of them are trials
-- is read once, with the first row, and so after all were claimed.
select
    t.lane, t.closed as is_closed, t.wait_ms, t.spent as is_exhausted, t.drawn as claimed_rows,
    $3::bigint as token, t.id, t.part, t.tenant, t.kind,
    t.priority, t.attempt, t.max_attempts, t.deferrals, t.lo, t.n, t.ids, t.gone, t.run_at, t.started_at,
    t.lost, t.parks,
    case when t.id is not null
        then t.lane = any ((select queue.half_open_lanes($4::bigint[]))::bigint[]) end as trial,
    $1::int4 as queue, t.body
from queue.claim(
    $1::int4, $2::bigint, $3::bigint, $4::bigint[], $5::int4[], $6::int4[], $7::int2[],
    $8::timestamptz[], $9::int4, $10::int4, $11::int4, $12::bool
) t
