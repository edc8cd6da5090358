-- One endpoint. Served by the primary key.
select
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
from app.webhook_endpoints e
where e.tenant_id = $1 and e.id = $2
