-- Creates a tenant as the API does. $1 id, $2 slug and name.
insert into app.tenants (id, slug, name, sla_tier) values ($1, $2, $2, 'ENTERPRISE')
