-- Records that the user of a session has proved their identity again. Served by the primary key.
update app.sessions set confirmed_at = now()
where tenant_id = $1 and id = $2 and ended_at is null
returning confirmed_at + make_interval(secs => $3::float8)
