-- Tenants that can have a job: those with rows among the parcels $1 to $2, where it is however it was
-- merged. For command-line tools that are given an id alone. Served by the primary key of parcels: one
-- probe a tenant.
select t.id
from queue.tenants t
cross join lateral (
    select p.id from queue.parcels p
    where p.tenant = t.number and p.id between $1::int8 and $2::int8
    limit 1
) found
order by t.number
