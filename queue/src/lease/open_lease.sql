-- Opens a lease for a worker process, and registers the process.
with introduced as (
    insert into queue.workers (id, host, pid, version, queues)
    values ($1::uuid, $2::text, $3::int4, $4::text, $5::jsonb)
    on conflict (id) do update set last_seen_at = now()
    returning id
)
insert into queue.leases (worker_id, expires_at)
select id, now() + $6::int8 * interval '1 millisecond' from introduced
returning id
