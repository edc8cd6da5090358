-- Serialises transactions that remove an admin of the tenant, so that not all can be removed at once.
-- Served by role_grants_user.
select id from app.role_grants
where tenant_id = $1 and role = 'admin' and revoked_at is null
order by id
for update
