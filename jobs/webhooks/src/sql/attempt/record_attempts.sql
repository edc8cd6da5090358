-- Records requests, each of a different delivery, and the new states of the deliveries: a delivery that has
-- succeeded once stays so, and outcomes of a replaced job are ignored. An attempt's number is counted in
-- its delivery's row, where two runs of one job wait for each other. Served by the primary key.
with outcomes as materialized (
    select *
    from unnest(
        $2::uuid[], $3::text[], $4::text[], $5::timestamptz[], $6::int8[], $7::text[], $8::jsonb[],
        $9::text[], $10::int4[], $11::jsonb[], $12::text[], $13::bool[], $14::text[], $15::text[],
        $16::int8[]
    ) as t(
        id, cause, delivery_outcome, started_at, duration_ms, url, header_names, address, status_code,
        response_headers, response_body, response_cut, error_code, error_message, job_id
    )
    order by id
),
delivery as (
    update app.deliveries d
    set attempts = d.attempts + 1,
        last_status = coalesce(t.status_code, d.last_status),
        state = case
            when d.state = 'succeeded' then d.state
            when t.delivery_outcome = 'failed' and t.cause = 'manual' and exists (
                select from app.delivery_attempts a
                where a.tenant_id = $1 and a.delivery_id = d.id and a.error_code is null
            ) then 'succeeded'
            when t.delivery_outcome = 'succeeded' or d.job_id = t.job_id then coalesce(t.delivery_outcome, d.state)
            else d.state
        end,
        finished_at = case
            when d.state = 'succeeded' then d.finished_at
            when t.delivery_outcome = 'succeeded' or t.delivery_outcome is not null and d.job_id = t.job_id then now()
            else d.finished_at
        end
    from outcomes t
    where d.tenant_id = $1 and d.id = t.id
    returning d.tenant_id, d.id, d.attempts
)
insert into app.delivery_attempts (
    tenant_id, delivery_id, number, cause, started_at, duration_ms, url, header_names, address,
    status_code, response_headers, response_body, response_cut, error_code, error_message
)
select
    d.tenant_id, d.id, d.attempts, t.cause, t.started_at, t.duration_ms, t.url,
    case when t.header_names <> '[]' then array(select jsonb_array_elements_text(t.header_names)) end,
    t.address::inet, t.status_code, t.response_headers, t.response_body, t.response_cut, t.error_code,
    t.error_message
from delivery d
join outcomes t on t.id = d.id
returning delivery_id, number
