-- Closes the lease of a worker that has stopped and holds nothing any more.
with closed as (
    update queue.leases set closed_at = now()
    where id = $1::bigint and closed_at is null
      and not exists (select from queue.parcels where lease = $1::bigint and state = 'r')
    returning worker_id
)
update queue.workers w set stopped_at = now(), last_seen_at = now()
from closed where w.id = closed.worker_id
