-- Creates the deliveries of one event; one without a job is skipped.
insert into app.deliveries (tenant_id, event_id, id, endpoint_id, job_id, state, finished_at)
select
    $1, $2, d.id, d.endpoint_id, d.job_id,
    case when d.job_id is null then 'skipped' else 'pending' end,
    case when d.job_id is null then now() end
from unnest($3::uuid[], $4::uuid[], $5::bigint[]) as d(id, endpoint_id, job_id)
