-- Adds counts to endpoints' hours; $8 holds $9 counts for each of them. Served by the primary key.
insert into app.endpoint_hours as h (
    tenant_id, endpoint_id, hour, succeeded, failed, last_success_at, last_failure_at, durations
)
select
    $1, t.id, t.hour, t.succeeded, t.failed, t.last_success_at, t.last_failure_at,
    ($8::int8[])[(t.nth - 1) * $9::int4 + 1 : t.nth * $9::int4]
from unnest($2::uuid[], $3::timestamptz[], $4::int8[], $5::int8[], $6::timestamptz[], $7::timestamptz[])
    with ordinality as t(id, hour, succeeded, failed, last_success_at, last_failure_at, nth)
order by t.nth
on conflict (tenant_id, endpoint_id, hour) do update
set succeeded = h.succeeded + excluded.succeeded,
    failed = h.failed + excluded.failed,
    last_success_at = greatest(h.last_success_at, excluded.last_success_at),
    last_failure_at = greatest(h.last_failure_at, excluded.last_failure_at),
    durations = array(
        select a.count + b.count
        from unnest(h.durations) with ordinality as a(count, nth)
        join unnest(excluded.durations) with ordinality as b(count, nth) using (nth)
        order by nth
    )
