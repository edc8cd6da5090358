-- Served by the primary key.
select number, started_at, duration_ms, status_code, response_body, error_code, error_message
from app.delivery_attempts
where tenant_id = $1 and delivery_id = $2
order by number
