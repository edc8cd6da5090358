-- The person of a session has proved again who they are. Served by the primary key.
update app.sessions set confirmed_at = now()
where tenant_id = $1 and id = $2 and ended_at is null
returning confirmed_at + make_interval(secs => $3::float8)
