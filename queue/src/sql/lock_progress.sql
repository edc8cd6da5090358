-- What was told of job $1, locked, if the run with token $2 still is the one that tells. Served by the
-- primary key.
select progress from queue.progress where job_id = $1::bigint and run = $2::bigint for update
