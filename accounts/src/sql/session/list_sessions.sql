-- A user's open sessions, newest first (ids are UUIDv7). Served by sessions_user.
select id, method, created_at, last_seen_at, expires_at, address, user_agent
from app.sessions
where tenant_id = $1 and user_id = $2 and ended_at is null and expires_at > now()
    and last_seen_at > now() - make_interval(secs => $3::float8)
order by id desc
