-- Takes the keys that are free or expired, and answers the jobs that got theirs. Keys are visited
-- in one order by everybody, so that two batches cannot wait for each other. Keys seen to be held are
-- left alone: a conflict locks its row even if it then changes nothing, and the settling of the job
-- that holds the key would have to wait for this transaction.
insert into queue.unique_keys as held (tenant, kind, key, job_id, expires_at)
select
    $1::int4, k.kind, k.key, k.job_id,
    case when k.hold_ms is null then 'infinity' else now() + k.hold_ms * interval '1 millisecond' end
from unnest($2::int4[], $3::text[], $4::bigint[], $5::bigint[]) as k(kind, key, job_id, hold_ms)
where not exists (
    select from queue.unique_keys h
    where h.tenant = $1::int4 and h.kind = k.kind and h.key = k.key and h.expires_at > now()
)
order by k.kind, k.key
on conflict (tenant, kind, key) do update
set job_id = excluded.job_id, expires_at = excluded.expires_at
where held.expires_at <= now()
returning job_id
