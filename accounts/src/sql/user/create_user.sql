-- Creates a user; no row when another of the tenant has the email. Served by users_tenant_id_email_key.
insert into app.users (tenant_id, id, email, name)
values ($1, $2, $3, $4)
on conflict (tenant_id, email) do nothing
returning id
