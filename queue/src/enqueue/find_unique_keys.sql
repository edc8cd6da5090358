-- The jobs that hold these keys. Served by the primary key.
select held.tenant, held.kind, held.key, held.job_id
from unnest($1::int4[], $2::int4[], $3::text[]) as k(tenant, kind, key)
join queue.unique_keys held
    on held.tenant = k.tenant and held.kind = k.kind and held.key = k.key
where held.expires_at > now()
