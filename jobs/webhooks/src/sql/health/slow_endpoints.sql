-- Halves the rate of the endpoints $2, unless that was done within ten seconds: requests that were in
-- flight then add no information. Without a rate, the current one is what has arrived in this hour.
-- Returns the endpoints that change. Served by the primary key.
update app.webhook_endpoints e
set slowed_at = now(),
    slowed_to = greatest(1, coalesce(
        e.slowed_to,
        e.rate_per_second,
        -- At least twenty: an hour that has just begun has few requests.
        (
            select greatest(20, h.succeeded / greatest(60, extract(epoch from now() - h.hour)))::int4
            from app.endpoint_hours h
            where h.tenant_id = e.tenant_id and h.endpoint_id = e.id
              and h.hour = date_trunc('hour', now(), 'UTC')
        ),
        20
    ) / 2)
where e.tenant_id = $1 and e.id = any ($2::uuid[])
  and (e.slowed_at is null or e.slowed_at < now() - interval '10 seconds')
returning e.id
