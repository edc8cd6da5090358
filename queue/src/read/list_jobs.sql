-- A page of a tenant's jobs, newest first, after a bounded read: see queue.list_jobs, which pins its plan.
select l.job, l.below
from queue.list_jobs(
    $1::uuid, $2::bigint, $3::int8, $4::text, $5::text, $6::text, $7::timestamptz, $8::timestamptz,
    $9::text, $10::int8
) l
