-- The successful run of a job, told by its parcel. Found by primary key.
select p.created_at, p.state::text, p.started_at, p.finished_at,
    (select l.worker_id from queue.leases l where l.id = p.lease)
from queue.parcels p
where p.id = $1::bigint
