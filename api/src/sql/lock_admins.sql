-- Has those wait who would take another admin of the tenant away at the same time. Served by
-- role_grants_user.
select id from app.role_grants
where tenant_id = $1 and role = 'admin' and revoked_at is null
order by id
for update
