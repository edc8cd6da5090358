-- The reported progress of job $1, locked, if the run with token $2 is still the one that reports. Served
-- by the primary key.
select progress from queue.progress where job_id = $1::bigint and run = $2::bigint for update
