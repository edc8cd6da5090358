-- All endpoints that an event can be delivered to: a paused one receives it when it is resumed, a disabled
-- one when the event is replayed.
select id, event_types, channels, status, ordering, cardinality(retry_delays) + 1 as attempts
from app.webhook_endpoints
where tenant_id = $1
order by id
