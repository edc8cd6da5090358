-- What happened in each of the last 2880 minutes and 2160 hours, to each of the five kinds of the ten tenants $1,
-- and to all together (0).
insert into queue.history (
    tenant, span, at, queue, kind, enqueued, started, succeeded, retried, waits, runs
)
select
    ($1::int4[])[t], s.span, s.at, k, k, 800 * m, 805 * m, 795 * m, 5 * m,
    array(select 1 + (t + k + i) % 90 from generate_series(1, 19) i),
    array(select 1 + (t * k + i) % 90 from generate_series(1, 19) i)
from (
    select 'm'::"char" as span, date_trunc('minute', now()) - g * interval '1 minute' as at
    from generate_series(0, 2879) g
    union all
    select 'h'::"char", date_trunc('hour', now(), 'UTC') - g * interval '1 hour'
    from generate_series(0, 2159) g
) s
cross join generate_series(1, 10) t
cross join generate_series(0, 5) k
cross join lateral (select case k when 0 then 5 else 1 end as m) kinds
order by s.at
