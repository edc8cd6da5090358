-- Changes what is given. Found by primary key.
update app.webhook_endpoints
set url = coalesce($3::text, url),
    event_types = coalesce($4::text[], event_types),
    headers = coalesce($5::jsonb, headers),
    status = coalesce($6::text, status),
    updated_at = now()
where tenant_id = $1 and id = $2
returning id, url, event_types, headers, status, created_at, updated_at
