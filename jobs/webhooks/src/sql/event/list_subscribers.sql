-- All endpoints, of which an event is delivered to those that take it: to a paused one when it goes on, and
-- to a disabled one when somebody has it replayed.
select id, event_types, channels, status, ordering, cardinality(retry_delays) + 1 as attempts
from app.webhook_endpoints
where tenant_id = $1
order by id
