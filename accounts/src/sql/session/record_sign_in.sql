-- Records a sign-in and removes the user's sessions that ended long ago. Served by the primary key of
-- users and by sessions_user.
with old as (
    delete from app.sessions
    where tenant_id = $1 and user_id = $2
        and (expires_at < now() - interval '7 days' or ended_at < now() - interval '7 days')
)
update app.users set last_sign_in_at = now() where tenant_id = $1 and id = $2
