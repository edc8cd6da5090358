-- The sealed secret of an endpoint.
insert into app.endpoint_secrets (tenant_id, endpoint_id, id, sealed) values ($1, $2, $3, $4)
