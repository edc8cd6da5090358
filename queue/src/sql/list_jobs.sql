-- A page of a tenant's jobs, newest first. Served by parcels_listing: the page is read from the
-- cursor down, and filters drop rows on the way.
select
    p.id, p.lo, t.id as tenant_id, k.name as kind, q.name as queue, p.state::text as state, p.priority,
    p.attempt, p.max_attempts, p.run_at, p.created_at, p.started_at, p.finished_at,
    p.error_code, p.error_message, p.results[1] as result, p.body[1] as body
from queue.parcels p
join queue.kinds k on k.id = p.kind
join queue.queues q on q.id = p.queue
join queue.tenants t on t.number = p.tenant
where p.tenant = (select number from queue.tenants where id = $1::uuid)
  and p.id < coalesce($2::bigint, 9223372036854775807)
  and ($4::text is null or p.state = $4::text::"char")
  and ($5::text is null or k.name = $5::text)
  and ($6::text is null or q.name = $6::text)
  and ($7::timestamptz is null or p.created_at >= $7::timestamptz)
  and ($8::timestamptz is null or p.created_at < $8::timestamptz)
  and ($9::text is null or p.error_code = $9::text)
order by p.id desc
limit $3::int8
