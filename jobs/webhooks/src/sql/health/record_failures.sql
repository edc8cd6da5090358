-- Adds $3 failures to the endpoints $2 and returns their health. Served by the primary key.
update app.webhook_endpoints e
set failing_since = coalesce(e.failing_since, now()), failures = e.failures + t.failures
from unnest($2::uuid[], $3::int4[]) as t(id, failures)
where e.tenant_id = $1 and e.id = t.id
returning
    e.id, e.url, e.failing_since, e.failures, e.alerted,
    extract(epoch from now() - e.failing_since)::float8 as failing_seconds
