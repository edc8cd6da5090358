-- A new endpoint, with all but its address as usual.
insert into app.webhook_endpoints (tenant_id, id, url) values ($1, $2, $3)
