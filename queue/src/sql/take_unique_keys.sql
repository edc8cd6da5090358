-- Takes the keys that are free or expired, and answers the jobs that got theirs. Keys are visited
-- in one order by everybody, so that two batches cannot wait for each other.
insert into queue.unique_keys as held (tenant, kind, key, job_id, expires_at)
select
    $1::int4, k.kind, k.key, k.job_id,
    case when k.hold_ms is null then 'infinity' else now() + k.hold_ms * interval '1 millisecond' end
from unnest($2::int4[], $3::text[], $4::bigint[], $5::bigint[]) as k(kind, key, job_id, hold_ms)
order by k.kind, k.key
on conflict (tenant, kind, key) do update
set job_id = excluded.job_id, expires_at = excluded.expires_at
where held.expires_at <= now()
returning job_id
