-- A new endpoint.
insert into app.webhook_endpoints (tenant_id, id, url, event_types, headers)
values ($1, $2, $3, $4, $5)
returning id, url, event_types, headers, status, created_at, updated_at
