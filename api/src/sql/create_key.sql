-- Makes a key, or answers nothing when its tenant is not there. Served by the primary key of tenants.
insert into app.api_keys
    (tenant_id, id, public_id, hash, last4, name, tier, scopes, expires_at)
select id, $2::uuid, $3::text, $4::bytea, $5::text, $6::text, $7::text, $8::text[], $9::timestamptz
from app.tenants
where id = $1::uuid
returning created_at
