-- Sets how long a tenant's payloads are kept. Served by the primary key.
insert into app.webhook_settings (tenant_id, payload_seconds) values ($1, $2)
on conflict (tenant_id) do update set payload_seconds = excluded.payload_seconds
