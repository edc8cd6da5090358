-- Serialises transactions that count how many more jobs can wait within a tenant's bound. $1 is the
-- tenant; without a bound nothing is locked. Served by the primary key of tenants.
select pg_advisory_xact_lock(1215463250, t.number)
from queue.tenants t
where t.number = $1::int4 and t.max_waiting is not null
