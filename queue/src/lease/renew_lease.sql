-- Renews a lease that has not expired; no row when it is lost.
with renewed as (
    update queue.leases
    set expires_at = now() + $2::int8 * interval '1 millisecond'
    where id = $1::bigint and expires_at > now() and closed_at is null
    returning worker_id
)
update queue.workers w set last_seen_at = now() from renewed where w.id = renewed.worker_id
returning true
