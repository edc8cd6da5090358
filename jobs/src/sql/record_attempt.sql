-- Records a request and what the delivery has become: what has arrived once has arrived. The attempt's number is counted in the
-- delivery's row: two runs of one job wait there for each other. Found by primary key.
with delivery as (
    update app.deliveries
    set attempts = attempts + 1,
        state = case when state = 'succeeded' then state else coalesce($9::text, state) end,
        finished_at = case
            when $9::text is null or state = 'succeeded' then finished_at
            else now()
        end
    where tenant_id = $1 and id = $2
    returning tenant_id, id, attempts
)
insert into app.delivery_attempts (
    tenant_id, delivery_id, number, started_at, duration_ms, status_code, response_body, error_code,
    error_message
)
select d.tenant_id, d.id, d.attempts, $3, $4, $5, $6, $7, $8 from delivery d
