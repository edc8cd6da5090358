-- Adds requests to the months of keys that still exist. In the order of keys, so that replicas that write
-- at the same time do not deadlock. Served by api_keys_id_key and usage_pkey.
insert into app.usage (tenant_id, key_id, month, requests)
select k.tenant_id, k.id, c.month, c.requests
from unnest($1::uuid[], $2::date[], $3::int8[]) as c (key, month, requests)
join app.api_keys k on k.id = c.key
order by k.id, c.month
on conflict (tenant_id, key_id, month) do update
set requests = usage.requests + excluded.requests, updated_at = now()
