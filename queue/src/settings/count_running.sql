-- Counts running jobs that are not counted by a limiter yet. See queue.count_running. Served by
-- parcels_running.
select queue.count_running($1::bigint)
