-- A page of a tenant's jobs that bear a label, newest first, and a second one if $12 is given.
-- Served by the primary key of labels.
select
    p.id, p.lo, t.id as tenant_id, k.name as kind, q.name as queue, p.state::text as state, p.priority,
    p.attempt, p.max_attempts, p.run_at, p.created_at, p.started_at, p.finished_at,
    p.error_code, p.error_message, p.results[1] as result, p.body[1] as body
from queue.labels l
join queue.parcels p on p.id = l.job_id / 1024
join queue.kinds k on k.id = p.kind
join queue.queues q on q.id = p.queue
join queue.tenants t on t.number = p.tenant
where l.tenant = (select number from queue.tenants where id = $1::uuid)
  and l.name = $10::text
  and l.value = $11::text
  and (
      $12::text is null
      or exists (
          select from queue.labels also
          where also.tenant = l.tenant and also.name = 'tag' and also.value = $12::text
            and also.job_id = l.job_id
      )
  )
  and l.job_id < coalesce($2::bigint * 1024, 9223372036854775807)
  and ($4::text is null or p.state = $4::text::"char")
  and ($5::text is null or k.name = $5::text)
  and ($6::text is null or q.name = $6::text)
  and ($7::timestamptz is null or p.created_at >= $7::timestamptz)
  and ($8::timestamptz is null or p.created_at < $8::timestamptz)
  and ($9::text is null or p.error_code = $9::text)
order by l.job_id desc
limit $3::int8
