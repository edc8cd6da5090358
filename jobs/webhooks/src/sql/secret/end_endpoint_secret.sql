-- Keeps the current key of algorithm $3 signing for $4 more seconds, or ends it at once, and shortens the
-- other replaced keys to the same time. Returns how many replaced keys still sign. Served by the primary
-- key.
with ended as (
    update app.endpoint_secrets
    set expires_at = least(expires_at, now() + $4::float8 * interval '1 second')
    where tenant_id = $1 and endpoint_id = $2 and algorithm = $3
      and (expires_at is null or $4::float8 = 0)
    returning id
)
select
    case when $4::float8 > 0 then
        (select count(*) from ended) + count(*) filter (where s.expires_at > now())
    else 0 end
from app.endpoint_secrets s
where s.tenant_id = $1 and s.endpoint_id = $2 and s.algorithm = $3
