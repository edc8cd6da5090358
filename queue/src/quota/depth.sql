-- The highest number of waiting jobs of tenant $1, and the number that waits; null and 0 without a bound,
-- for which nothing is counted. See queue.count_waiting. Served by the primary key of tenants.
select
    t.max_waiting, case when t.max_waiting is null then 0 else queue.count_waiting(t.number) end as waiting
from queue.tenants t
where t.number = $1::int4
