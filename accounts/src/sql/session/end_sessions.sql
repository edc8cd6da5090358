-- Ends a user's open sessions: one, all, or all but one. Served by sessions_user.
update app.sessions
set ended_at = now()
where tenant_id = $1 and user_id = $2 and ended_at is null
    and ($3::uuid is null or id = $3::uuid) and ($4::uuid is null or id <> $4::uuid)
returning id
