-- Keys that sign now for the endpoints $2: for each, the current ones first, the secret before the key
-- pair. Served by the primary key.
select s.endpoint_id, s.sealed
from app.endpoint_secrets s
where s.tenant_id = $1 and s.endpoint_id = any ($2::uuid[])
  and (s.expires_at is null or s.expires_at > now())
order by s.endpoint_id, s.expires_at is not null, s.algorithm, s.created_at desc
