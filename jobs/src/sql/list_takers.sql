-- Endpoints that events may be delivered to; a paused one is delivered to when it goes on.
select id, event_types from app.webhook_endpoints
where tenant_id = $1 and status in ('active', 'paused')
order by id
