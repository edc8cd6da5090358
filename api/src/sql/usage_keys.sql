-- Requests of each of a tenant's keys by month, from a given month; working keys and those that were used,
-- the busiest first, at most a thousand. Served by usage_month and the primary key of api_keys.
select k.id, k.name, k.tier, k.limits, k.last_used_at, u.months, u.requests
from app.api_keys k
left join (
    select key_id, array_agg(month order by month desc) as months,
        array_agg(requests order by month desc) as requests, sum(requests) as total
    from app.usage
    where tenant_id = app.current_tenant() and month >= $1::date
    group by key_id
) u on u.key_id = k.id
where k.tenant_id = app.current_tenant()
    and (
        u.key_id is not null
        or (k.revoked_at is null and (k.expires_at is null or k.expires_at > now()))
    )
order by u.total desc nulls last, k.id
limit 1000
