-- Changes the given members; flags distinguish null from a member that is not given. Served by the primary
-- key.
update app.webhook_endpoints e
set url = coalesce($3::text, url),
    event_types = coalesce($4::text[], event_types),
    headers = coalesce($5::jsonb, headers),
    status = coalesce($6::text, status),
    channels = coalesce($7::text[], channels),
    ordering = coalesce($8::text, ordering),
    retry_delays = coalesce($9::int4[], retry_delays),
    description = case when $10::bool then $11::text else description end,
    rate_per_second = case when $12::bool then $13::int4 else rate_per_second end,
    -- A rate that is set applies from now on.
    slowed_to = case when $12::bool then null else slowed_to end,
    max_in_flight = case when $14::bool then $15::int4 else max_in_flight end,
    client_certificate = case when $16::bool then $17::text else client_certificate end,
    client_key = case when $16::bool then $18::bytea else client_key end,
    oauth2 = case when $19::bool then $20::jsonb else oauth2 end,
    oauth2_secret = case when $19::bool then $21::bytea else oauth2_secret end,
    -- Enabling clears the failures; $22 is the alert step that keeps the recovery to be reported.
    disabled_reason = case when $6::text <> status then null else disabled_reason end,
    disabled_at = case
        when $6::text = 'disabled' and status <> 'disabled' then now()
        when $6::text <> 'disabled' then null
        else disabled_at
    end,
    failing_since = case when $6::text <> 'disabled' and status = 'disabled' then null
        else failing_since end,
    failures = case when $6::text <> 'disabled' and status = 'disabled' then 0 else failures end,
    alerted = case when $6::text <> 'disabled' and status = 'disabled' then least(alerted, $22::int4)
        else alerted end,
    updated_at = now()
where e.tenant_id = $1 and e.id = $2
returning
    e.id, e.url, e.description, e.event_types, e.channels, e.headers, e.status, e.disabled_reason, e.ordering,
    e.retry_delays, e.rate_per_second, e.max_in_flight, e.slowed_to, e.failing_since, e.failures,
    (
        select s.public_key from app.endpoint_secrets s
        where s.tenant_id = e.tenant_id and s.endpoint_id = e.id and s.algorithm = 'v1a'
          and s.expires_at is null
        order by s.created_at desc
        limit 1
    ) as public_key,
    e.client_certificate, e.oauth2, e.created_at, e.updated_at
