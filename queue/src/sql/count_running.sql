-- Counts running jobs that a limiter does not know of. See migration 0009. Served by parcels_running.
select queue.count_running($1::bigint)
