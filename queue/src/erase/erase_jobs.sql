-- Removes a tenant's jobs in steps. See queue.erase_jobs. Served by the primary key of parcels.
select seen, jobs, last from queue.erase_jobs($1::int4, $2::int8, $3::int4)
