-- Records a request and what the delivery has become. The attempt's number is counted in the
-- delivery's row: two runs of one job wait there for each other. Found by primary key.
with delivery as (
    update app.deliveries
    set attempts = attempts + 1,
        state = coalesce($9::text, state),
        finished_at = case when $9::text is null then finished_at else now() end
    where tenant_id = $1 and id = $2
    returning tenant_id, id, attempts
)
insert into app.delivery_attempts (
    tenant_id, delivery_id, number, started_at, duration_ms, status_code, response_body, error_code,
    error_message
)
select d.tenant_id, d.id, d.attempts, $3, $4, $5, $6, $7, $8 from delivery d
