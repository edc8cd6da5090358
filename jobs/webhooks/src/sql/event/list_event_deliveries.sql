-- The deliveries that an event created when it was first posted. Served by deliveries_event.
select id, endpoint_id, job_id from app.deliveries
where tenant_id = $1 and event_id = $2
order by id
