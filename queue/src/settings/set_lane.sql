-- Changes a lane in all its rows: jobs that name other limits have rows of their own. $5 weight and $6
-- paused: null leaves them unchanged. $7: resume at once, although parked. $8: set the breaker of $9 to
-- $12, or remove it. Served by lanes' unique index.
with locked as materialized (
    select l.id from queue.lanes l
    where l.queue = $1::int4 and l.tenant = $2::int4 and l.key = $3::text and l.strict = $4::bool
    order by l.id
    for no key update
)
update queue.lanes l
set weight = coalesce($5::int2, l.weight),
    paused = coalesce($6::bool, l.paused),
    paused_at = case when coalesce($6::bool, l.paused) then coalesce(l.paused_at, now()) end,
    parked_until = case
        when $7::bool or $8::bool and $9::int4 is null and l.breaker <> 'c' then null
        else l.parked_until
    end,
    breaker_after = case when $8::bool then $9::int4 else l.breaker_after end,
    breaker_share = coalesce($11::int2, l.breaker_share),
    breaker_window = coalesce($12::int8 * interval '1 microsecond', l.breaker_window),
    breaker_rest = case
        when $8::bool then $10::int8 * interval '1 microsecond' else l.breaker_rest
    end,
    breaker = case when $8::bool and $9::int4 is null then 'c' else l.breaker end::"char",
    failures = case when $8::bool and $9::int4 is null then 0 else l.failures end,
    tries = case when $8::bool and $9::int4 is null then 0 else l.tries end,
    window_from = case when $8::bool and $9::int4 is null then null else l.window_from end
from locked
where l.id = locked.id
