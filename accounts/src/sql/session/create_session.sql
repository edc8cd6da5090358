-- Creates a session for a user who is not disabled; no row otherwise. A link alone does not replace a
-- confirmed authenticator. Served by the primary key of users.
insert into app.sessions
    (tenant_id, id, user_id, token_hash, method, expires_at, address, user_agent, confirmed_at)
select tenant_id, $3::uuid, id, $4::bytea, $5::text, now() + make_interval(secs => $6::float8),
    $7::text, $8::text,
    case when $5::text = 'link' and totp_confirmed_at is not null then timestamptz '1970-01-01' else now() end
from app.users
where tenant_id = $1 and id = $2 and disabled_at is null
for no key update
returning expires_at
