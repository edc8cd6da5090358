-- Stores a sealed key of an endpoint, which becomes the current one of its algorithm.
insert into app.endpoint_secrets (tenant_id, endpoint_id, id, sealed, algorithm, public_key, created_at)
values ($1, $2, $3, $4, $5, $6, clock_timestamp())
