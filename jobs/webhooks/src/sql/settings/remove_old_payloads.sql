-- Removes the payloads of events, and the responses to them, that are older than their tenant's retention
-- and have no pending delivery; at most a thousand. Served by events_payloads, deliveries_event and the
-- primary key of attempts.
with old as materialized (
    select e.id
    from app.events e
    where e.tenant_id = $1 and e.data is not null
      and e.created_at < now() - (
          select s.payload_seconds from app.webhook_settings s where s.tenant_id = $1
      ) * interval '1 second'
      and not exists (
          select from app.deliveries d
          where d.tenant_id = e.tenant_id and d.event_id = e.id and d.state = 'pending'
      )
    order by e.created_at
    limit 1000
),
responses as (
    update app.delivery_attempts a
    set response_body = null, response_headers = null
    from app.deliveries d
    where d.tenant_id = $1 and d.event_id = any (array(select id from old))
      and a.tenant_id = d.tenant_id and a.delivery_id = d.id
)
update app.events e set data = null where e.tenant_id = $1 and e.id = any (array(select id from old))
