-- How many jobs of the tenant $1 may wait, and how many do; null and 0 without a bound, for which nothing
-- is counted. See migration 0020. Served by the primary key of tenants.
select
    t.max_waiting, case when t.max_waiting is null then 0 else queue.count_waiting(t.number) end as waiting
from queue.tenants t
where t.number = $1::int4
