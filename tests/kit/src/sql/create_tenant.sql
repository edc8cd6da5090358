-- A tenant, as the API makes them. $1 id, $2 slug and name. By the primary key.
insert into app.tenants (id, slug, name, sla_tier) values ($1, $2, $2, 'ENTERPRISE')
