-- Disables an active endpoint. Served by the primary key.
update app.webhook_endpoints
set status = 'disabled', disabled_reason = $3, disabled_at = now()
where tenant_id = $1 and id = $2 and status <> 'disabled'
returning url, failing_since, failures
