-- Claims jobs of one queue from the lanes a worker chose: see queue.take in the migrations.
select
    lane, closed, wait_ms, spent, drawn, $3::bigint as token, id, part, tenant, kind, priority,
    attempt, max_attempts, deferrals, lo, n, ids, gone, run_at, started_at, lost, parks,
    $1::int4 as queue, body
from queue.take(
    $1::int4, $2::bigint, $3::bigint, $4::bigint[], $5::int4[], $6::int4[], $7::int2[],
    $8::timestamptz[], $9::int4, $10::int4, $11::int4, $12::bool
)
