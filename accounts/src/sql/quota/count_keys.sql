-- Keys of the tenant that count against its quota: working ones, and those that ended within the last day,
-- so that a new key is no new budget; of keys that replaced each other, only the last. Served by the
-- primary key.
select count(*)
from app.api_keys k
where k.tenant_id = app.current_tenant()
    and (k.revoked_at is null or k.revoked_at > now() - interval '1 day')
    and (k.expires_at is null or k.expires_at > now() - interval '1 day')
    and not exists (
        select from app.api_keys s
        where s.tenant_id = k.tenant_id and s.rotated_from = k.id
    )
