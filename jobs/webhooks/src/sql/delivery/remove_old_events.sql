-- Removes events older than $2 seconds without a pending delivery, with their deliveries and attempts; at
-- most a thousand. Served by events_age and deliveries_event.
with old as materialized (
    select e.id from app.events e
    where e.tenant_id = $1
      and e.created_at < now() - $2::float8 * interval '1 second'
      and not exists (
          select from app.deliveries d
          where d.tenant_id = e.tenant_id and d.event_id = e.id and d.state = 'pending'
      )
    order by e.created_at
    limit 1000
)
delete from app.events e where e.tenant_id = $1 and e.id = any (array(select id from old))
