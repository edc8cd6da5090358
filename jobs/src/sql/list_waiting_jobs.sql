-- Jobs of an endpoint's deliveries that are on their way, oldest first. Served by deliveries_endpoint.
select job_id from app.deliveries
where tenant_id = $1 and endpoint_id = $2 and state = 'pending' and job_id is not null
order by id
limit 10000
