-- Cancels a tenant's running jobs and returns their number. See queue.erase_running. Served by
-- parcels_running.
select queue.erase_running($1::int4, $2::bool)
