-- Creates an endpoint with defaults for all but its address.
insert into app.webhook_endpoints (tenant_id, id, url) values ($1, $2, $3)
