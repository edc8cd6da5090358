-- Requests of all of a tenant's keys by month, newest first, from a given month. Served by usage_month.
select month, sum(requests)::int8 as requests,
    case when bool_and(closed_at is not null) then max(closed_at) end as closed_at
from app.usage
where tenant_id = app.current_tenant() and month >= $1::date
group by month
order by month desc
