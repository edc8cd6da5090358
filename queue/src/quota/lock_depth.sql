-- Has transactions that count what a tenant's bound leaves room for take turns. $1 is the tenant; there is
-- nothing to wait for where it has no bound. Served by the primary key of tenants.
select pg_advisory_xact_lock(1215463250, t.number)
from queue.tenants t
where t.number = $1::int4 and t.max_waiting is not null
